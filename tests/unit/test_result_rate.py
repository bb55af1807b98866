"""Whether results that come rarely are a problem, by what delays them."""

from __future__ import annotations

import pytest

from tridetr.config import SentrySection
from tridetr.controller.result_rate import ResultRate

S = 1_000_000_000


def after(rate: ResultRate, seconds: float, every_s: float, skipped: int, sequence: int = 1) -> int:
    """Let results arrive for some time; return the next sequence."""
    start = rate._capture_ns or 1000 * S
    for n in range(1, round(seconds / every_s) + 1):
        sequence += 1 + skipped
        rate.look(sequence, start + round(n * every_s * S))
    return sequence


@pytest.mark.parametrize(
    ("every_s", "skipped", "keys", "is_slow"),
    [
        (4.5, 13, {}, True),
        (2.5, 7, {}, True),
        (1.5, 4, {}, False),  # confirmed after 4.5 s
        (0.4, 0, {}, False),
        (4.5, 0, {}, False),  # the camera sends no more
        (9.0, 20, {}, False),  # Unknown, which is shown already
        (1.5, 4, {"confirm_frames": 10}, True),
        (1.5, 1, {"confirm_frames": 10, "standby_fps": 1.0}, False),
    ],
)
def test_rare_results(every_s: float, skipped: int, keys: dict[str, float], is_slow: bool) -> None:
    rate = ResultRate(SentrySection.model_validate(keys))
    after(rate, 60, every_s, skipped)
    assert bool(rate.problem) is is_slow


def test_a_short_delay_is_not_a_problem_and_a_problem_ends_with_its_cause() -> None:
    rate = ResultRate(SentrySection())
    sequence = after(rate, 30, 0.4, 0)
    sequence = after(rate, 10, 4.5, 13, sequence)
    assert not rate.problem
    sequence = after(rate, 40, 4.5, 13, sequence)
    assert rate.problem
    sequence = after(rate, 60, 0.4, 0, sequence)
    assert not rate.problem


def test_a_new_ring_of_the_camera_starts_again() -> None:
    rate = ResultRate(SentrySection())
    rate.look(1000, 1000 * S)
    rate.look(1, 1004 * S)
    rate.look(2, 1008 * S)
    assert rate._mean._mean_s == 0
