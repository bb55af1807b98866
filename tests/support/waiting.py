"""Wait for conditions instead of fixed times."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def slack(quiet: float) -> float:
    """Return the time limit for something that takes at most ``quiet`` seconds on an idle machine.

    It is half as long again, and grows with the load average once that exceeds the number of processors, so that a
    test fails because of a fault and not because the machine is busy.
    """
    return 1.5 * quiet * max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def wait_for(condition: Callable[[], T | None], within_s: float = 20, what: str = "") -> T:
    """Return the first true value of ``condition``; raise AssertionError after ``within_s`` seconds."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what or condition}")
        time.sleep(0.02)
