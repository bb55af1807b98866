"""Whether a camera is watched: the first part of its pipeline that does not work is reported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tridetr.gateway.watching import Chain, Decided, find_fault
from tridetr.shm.boards import CameraState, CameraStatus, SentryMode, SentrySnapshot, SentryState

NOW = 1_000_000_000_000
STATUS = CameraStatus(CameraState.LIVE, 0, NOW - 500_000_000)
SENTRY = SentrySnapshot(SentryMode.STANDBY, SentryState.STANDBY, 0, "", NOW + 1, 5)
WHOLE = Chain(STATUS, 0.1, 0.2, SENTRY, 0.3, ("cat", "dog"))


@pytest.mark.parametrize(
    ("change", "part", "words"),
    [
        ({}, None, ""),
        ({"status": None}, "capture", "not started"),
        (
            {"status": replace(STATUS, heartbeat_monotonic_ns=NOW - 4_000_000_000)},
            "capture",
            "stopped reporting",
        ),
        *(
            ({"status": replace(STATUS, state=state)}, "camera", "")
            for state in CameraState
            if state is not CameraState.LIVE
        ),
        ({"status": replace(STATUS, state=CameraState.BLIND)}, "camera", "cannot see"),
        ({"status": replace(STATUS, message="most pictures are damaged")}, "camera", "damaged"),
        ({"frame_age_s": None}, "capture", "no new frame"),
        ({"frame_age_s": 11.0}, "capture", "no new frame"),
        ({"result_age_s": None}, "detector", "no results"),
        ({"result_age_s": 5.1}, "detector", "no results"),
        ({"sentry": None}, "controller", "not running"),
        ({"sentry": replace(SENTRY, expires_monotonic_ns=NOW)}, "controller", "not running"),
        ({"decided_age_s": None}, "controller", "makes no decisions"),
        ({"decided_age_s": 5.1}, "controller", "makes no decisions"),
        ({"sentry": replace(SENTRY, state=SentryState.UNKNOWN)}, "controller", "unknown"),
        ({"unknown_classes": ("cat", "dog")}, "model", "not know the alarm class 'cat'"),
        ({"unknown_classes": ("cat",)}, None, ""),  # the others alarm; this is a warning
        ({"unpublished_classes": ("cat",)}, None, ""),
        (
            {"unknown_classes": ("cat",), "unpublished_classes": ("dog",)},
            "model",
            "out the alarm class 'dog'",
        ),
        (
            {
                "unknown_classes": ("cat", "dog"),
                "sentry": replace(SENTRY, state=SentryState.UNKNOWN),
            },
            "model",
            "not know",
        ),
        ({"unpublished_classes": ("cat", "dog")}, "model", "leaves out the alarm class 'cat'"),
        # The cause takes precedence over its consequences.
        ({"frame_age_s": 20.0, "result_age_s": 20.0, "decided_age_s": 20.0}, "capture", "frame"),
        ({"result_age_s": 20.0, "decided_age_s": 20.0}, "detector", "results"),
    ],
)
def test_first_failed_part_is_reported(
    change: dict[str, Any], part: str | None, words: str
) -> None:
    fault = find_fault(replace(WHOLE, **change), 10.0, 5.0, NOW)
    assert (fault.part if fault else None) == part
    assert words in (fault.reason if fault else "")


def test_ended_recording_is_reported() -> None:
    ended = replace(STATUS, state=CameraState.ENDED, heartbeat_monotonic_ns=0)
    fault = find_fault(replace(WHOLE, status=ended), 10.0, 5.0, NOW)
    assert fault
    assert fault.reason == "the recording has ended"


def test_capture_time_of_the_newest_decided_frame() -> None:
    decided = Decided()
    assert decided.capture_ns(5) is None
    for sequence in (3, 6, 9):
        decided.add(sequence, sequence * 100)
    assert decided.capture_ns(2) is None  # all remembered frames are newer
    assert [decided.capture_ns(n) for n in (3, 5, 6, 99)] == [300, 300, 600, 900]
    decided.add(1, 5000)  # the ring was recreated
    assert decided.capture_ns(99) == 5000
