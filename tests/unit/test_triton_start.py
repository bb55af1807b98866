"""A stalled start of the server is given up long before a slow one."""

from __future__ import annotations

import pytest

from tridetr.triton.start import STALLED_S, Sample, StartProgress


def sample(*, cpu_s: dict[int, float] | None = None, lines: int = 0, read_bytes: int = 0) -> Sample:
    return Sample({7: 1.0} if cpu_s is None else cpu_s, lines, read_bytes)


@pytest.mark.parametrize(
    "later",
    [
        sample(cpu_s={7: 1.5}),
        sample(cpu_s={7: 1.0, 8: 0.0}),  # the backend's process was started
        sample(cpu_s={}),  # the backend's process exited
        sample(lines=1),
        sample(read_bytes=4 << 20),  # a model read from a slow card
    ],
)
def test_any_progress_restarts_the_timeout(later: Sample) -> None:
    progress = StartProgress(sample(), 0.0)
    assert not progress.too_long(lambda: later, STALLED_S - 1)
    assert not progress.too_long(lambda: later, 2 * STALLED_S - 2)
    assert progress.too_long(lambda: later, 2 * STALLED_S)


def test_a_start_without_progress_is_given_up() -> None:
    progress = StartProgress(sample(), 0.0)
    assert not progress.too_long(sample, STALLED_S - 2)
    assert progress.too_long(sample, STALLED_S)


def test_the_cpu_time_of_a_waiting_server_is_not_progress() -> None:
    """It answers our requests and its threads check timers, which takes at most 3 ms per second."""
    progress = StartProgress(sample(), 0.0)
    seconds = range(1, round(STALLED_S) + 1)
    judged = [
        progress.too_long(lambda: sample(cpu_s={7: 1.0 + 0.003 * s}), float(s)) for s in seconds
    ]
    assert [bool(why) for why in judged] == [False] * (len(judged) - 1) + [True]


def test_a_starved_server_is_slow_but_not_stalled() -> None:
    """It gets a fiftieth of a processor, as with a hundred busy processes on two processors."""
    progress = StartProgress(sample(), 0.0)
    for second in range(1, 170):
        assert not progress.too_long(lambda: sample(cpu_s={7: 1.0 + 0.02 * second}), float(second))
    assert "after 180 s" in str(progress.too_long(sample, 180.0))
