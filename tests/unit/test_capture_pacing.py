"""Pacing: rates hold on average, a mode starts with its first frame, gaps cause no bursts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tridetr.capture.pacing import Pace, Pacer
from tridetr.capture.sentry import pace_of
from tridetr.shm.boards import SentryMode, SentrySnapshot, SentryState

SECOND = 1_000_000_000


def accepted(pacer: Pacer, times_ns: list[int], pace: Pace) -> list[int]:
    return [time for time in times_ns if pacer.wants(time, pace)]


@pytest.mark.parametrize(
    ("source_fps", "limit", "pace", "expected_fps"),
    [
        (30, None, Pace.STANDBY, 3),
        (10, None, Pace.STANDBY, 3),
        (25, None, Pace.ALARMED, 25),
        (25, None, Pace.NO_CONTROLLER, 25),
        (30, 10, Pace.ALARMED, 10),
        (30, 20, Pace.ALARMED, 20),  # not an integer ratio
        (30, 30, Pace.ALARMED, 30),
        (30, 1, Pace.STANDBY, 1),  # the limit is below standby
        (2, None, Pace.STANDBY, 2),  # slower than standby: all frames
    ],
)
def test_rate_holds_on_average(
    source_fps: int, limit: float | None, pace: Pace, expected_fps: float
) -> None:
    dice = random.Random(1)
    step = SECOND / source_fps
    # frames of real cameras are a little early or late
    times = [round(n * step + dice.uniform(-0.04, 0.04) * step) for n in range(source_fps * 60)]
    got = len(accepted(Pacer(3.0, limit), times, pace))
    assert got == pytest.approx(expected_fps * 60, rel=0.02)


def test_an_alarm_takes_the_next_frame() -> None:
    pacer = Pacer(3.0, 10.0)
    assert pacer.wants(0, Pace.STANDBY)
    assert not pacer.wants(SECOND // 30, Pace.STANDBY)
    assert pacer.wants(2 * SECOND // 30, Pace.ALARMED)


def test_no_burst_after_a_gap() -> None:
    pacer = Pacer(3.0, None)
    assert pacer.wants(0, Pace.STANDBY)
    after = [60 * SECOND + n * SECOND // 30 for n in range(27)]
    assert len(accepted(pacer, after, Pace.STANDBY)) == 3


def test_a_clock_that_goes_backwards_does_not_stop_the_camera() -> None:
    pacer = Pacer(3.0, None)
    assert pacer.wants(100 * SECOND, Pace.STANDBY)
    assert pacer.wants(SECOND, Pace.STANDBY)
    assert not pacer.wants(SECOND + SECOND // 10, Pace.STANDBY)
    assert pacer.wants(SECOND + SECOND // 3, Pace.STANDBY)


@given(
    gaps=st.lists(st.integers(1_000_000, 500_000_000), min_size=2, max_size=200),
    fps=st.floats(0.5, 30),
)
def test_never_faster_than_the_requested_rate(gaps: list[int], fps: float) -> None:
    times = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    taken = accepted(Pacer(fps, None), times, Pace.STANDBY)
    assert taken  # the first frame always
    most = (times[-1] - times[0]) / SECOND * fps + 1.2  # a tenth early at each end
    assert len(taken) <= most + 1


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        (None, Pace.NO_CONTROLLER),
        ((SentryMode.STANDBY, 10), Pace.STANDBY),
        ((SentryMode.ALARMED, 10), Pace.ALARMED),
        ((SentryMode.STANDBY, 4), Pace.NO_CONTROLLER),  # expired
        ((SentryMode.ALARMED, 4), Pace.NO_CONTROLLER),
    ],
)
def test_the_pace_follows_the_sentry_board(
    snapshot: tuple[SentryMode, int] | None, expected: Pace
) -> None:
    board = None
    if snapshot is not None:
        mode, expires = snapshot
        board = SentrySnapshot(mode, SentryState.STANDBY, 0, "", expires)
    assert pace_of(board, 5) is expected


def test_a_damaged_frame_is_replaced_by_the_next_one() -> None:
    pacer = Pacer(1.0, None)
    assert accepted(pacer, [0, 100_000_000], Pace.STANDBY) == [0]
    pacer.again()
    assert accepted(pacer, [200_000_000, 300_000_000, 1_200_000_000], Pace.STANDBY) == [
        200_000_000,
        1_200_000_000,
    ]
