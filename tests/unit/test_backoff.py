"""Exponential back-off."""

from __future__ import annotations

import random

from tridetr.backoff import Backoff


def test_the_wait_grows_to_its_limit() -> None:
    backoff = Backoff(first_s=0.25, longest_s=10.0, dice=random.Random(0))
    waits = [backoff.failed() for _ in range(2000)]
    for attempt, wait in enumerate(waits):
        full = min(10.0, 0.25 * 2 ** min(attempt, 50))
        assert full / 2 <= wait <= full


def test_only_a_steady_time_resets_it() -> None:
    backoff = Backoff(first_s=0.25, longest_s=10.0, steady_s=5.0)
    for _ in range(10):
        backoff.failed(0.0)
    assert backoff.failed(1.0) == 10.0  # works for a short time only
    assert backoff.failed(5.0) == 0.25
    assert backoff.failed() == 0.5


def test_jitter_spreads_the_retries_of_simultaneous_failures() -> None:
    first, second = (
        Backoff(first_s=0.25, longest_s=10.0, dice=random.Random(seed)) for seed in (1, 2)
    )
    assert [first.failed() for _ in range(5)] != [second.failed() for _ in range(5)]
