"""How long to wait before something is tried again."""

from __future__ import annotations

import doctest
import random

from tridetr import backoff as backoff_module
from tridetr.backoff import Backoff


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(backoff_module)
    assert result.attempted > 0
    assert result.failed == 0


def test_it_grows_to_the_longest_and_stays_there() -> None:
    backoff = Backoff(first_s=0.25, longest_s=10.0, dice=random.Random(0))
    waits = [backoff.failed() for _ in range(2000)]
    for attempt, wait in enumerate(waits):
        full = min(10.0, 0.25 * 2 ** min(attempt, 50))
        assert full / 2 <= wait <= full


def test_a_steady_time_resets_it_and_a_short_one_does_not() -> None:
    backoff = Backoff(first_s=0.25, longest_s=10.0, steady_s=5.0)
    for _ in range(10):
        backoff.failed(0.0)
    assert backoff.failed(1.0) == 10.0  # a source that flaps
    assert backoff.failed(5.0) == 0.25
    assert backoff.failed() == 0.5


def test_those_that_failed_together_do_not_try_together() -> None:
    first, second = (
        Backoff(first_s=0.25, longest_s=10.0, dice=random.Random(seed)) for seed in (1, 2)
    )
    assert [first.failed() for _ in range(5)] != [second.failed() for _ in range(5)]
