"""Wait on conditions, never for a fixed time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def slack(quiet: float) -> float:
    """Return the bound for what takes at most ``quiet`` on a machine that does nothing else.

    Half as much again, and times the processes that want a processor where there are more of them than processors:
    a bound must catch what is wrong, and not that somebody else works too.
    """
    return 1.5 * quiet * max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def wait_for(condition: Callable[[], T | None], within_s: float = 20, what: str = "") -> T:
    """Return the first true value of ``condition``; fail when the time is over."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what or condition}")
        time.sleep(0.02)
