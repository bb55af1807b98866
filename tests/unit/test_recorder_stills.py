"""Pre-roll of cameras without packets: a static scene is encoded rarely, and every clip has its start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from support.recorder import WatchedCamera
from support.rings import frame_stamp, result_stamp
from tridetr.gateway.encode import Color
from tridetr.recorder.clips import Span, Still, StillsClip
from tridetr.shm.boards import SentryMode, SentrySnapshot, SentryState
from tridetr.shm.detections import DETECTION_DTYPE

STEP_NS = 333_000_000  # standby: three frames a second


class Scene(WatchedCamera):
    """One camera without packets, frame by frame."""

    def __init__(self, instance: str, folder: Path, stack: ExitStack) -> None:
        super().__init__(instance, folder, stack, slots=4)
        self.encoded: list[int] = []  # numbers of the frames that were encoded

    def play(
        self,
        count: int,
        *,
        repeated: bool,
        visit: str = "",
        poll_before: bool = False,
        results: bool = True,
    ) -> None:
        """Publish frames and their results; the watcher polls after each."""
        for _ in range(count):
            self.number += 1
            now = self.number * STEP_NS
            slot = self.frames.begin()
            assert slot is not None
            slot.planes[:] = 100
            times = {"capture_monotonic_ns": now, "capture_unix_ns": now}
            sequence = self.frames.publish(slot, frame_stamp(self.number, **times))
            if poll_before:
                self._poll()
            asked = now - STEP_NS if repeated else now + 20
            stamp = result_stamp(
                self.number,
                frame_sequence=sequence,
                taken_ns=now + 10,
                infer_start_ns=asked,
                infer_end_ns=asked + 5,
                **times,
            )
            if results:
                self.results.publish(stamp, np.zeros(0, DETECTION_DTYPE))
            state = SentryState.TRACKING if visit else SentryState.STANDBY
            mode = SentryMode.ALARMED if visit else SentryMode.STANDBY
            self.board.write(SentrySnapshot(mode, state, now, visit, 1 << 62, visit_class="person"))
            self._poll()

    def _poll(self) -> None:
        before = self.stills()
        self.watcher.poll()
        self.encoded += [time // STEP_NS for time in self.stills() if time not in before]

    def stills(self) -> list[int]:
        return [still.capture_ns for still in self.watcher._stills.found]


@pytest.fixture
def scene(instance: str, tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(instance, tmp_path, stack)


def test_a_scene_that_does_not_change_is_encoded_once_a_second(scene: Scene) -> None:
    scene.play(1, repeated=False)
    scene.encoded.clear()
    scene.play(30, repeated=True)
    assert 8 <= len(scene.encoded) <= 10


def test_motion_is_encoded_from_its_first_frame(scene: Scene) -> None:
    """Even if the recorder looks at the frame before its result is there."""
    scene.play(9, repeated=True, poll_before=True)
    scene.encoded.clear()
    scene.play(5, repeated=False, poll_before=True)
    assert scene.encoded == [10, 11, 12, 13, 14]


def test_results_that_stop_do_not_stop_the_stills(scene: Scene) -> None:
    scene.play(6, repeated=True)
    scene.encoded.clear()
    scene.play(9, repeated=True, results=False)
    assert scene.encoded[-6:] == [10, 11, 12, 13, 14, 15]


def test_clip_in_progress_gets_every_frame(scene: Scene) -> None:
    scene.play(6, repeated=True)
    scene.play(3, repeated=False, visit="visit-a")
    scene.encoded.clear()
    scene.play(3, repeated=True)  # the visit is over, but its clip is not
    assert scene.encoded == [10, 11, 12]


def test_clip_starts_at_or_before_its_span() -> None:
    stills = [Still(n * 1000, n * 1000, b"", Color(True, "BT601")) for n in range(5)]

    def part() -> Path:
        raise AssertionError

    for start, first in ((2500, 2000), (2000, 2000), (-5, 0), (9000, 4000)):
        clip = StillsClip(stills, Span(start, 10_000), part, 1)
        assert clip._waiting[0].capture_ns == first
