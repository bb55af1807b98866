"""Exponential back-off: how long to wait before retrying after a failure."""

from __future__ import annotations

import math
import random


def wait_s(failures: int, first_s: float, longest_s: float) -> float:
    """Return the wait in seconds after a number of consecutive failures.

    Args:
        failures: Consecutive failures, at least 1.
        first_s: Wait after the first failure; it doubles with each further one.
        longest_s: Upper bound of the wait.

    >>> [wait_s(failures, 0.1, 0.5) for failures in (1, 2, 3, 4, 5000)]
    [0.1, 0.2, 0.4, 0.5, 0.5]
    """
    return float(min(first_s * 2.0 ** min(failures - 1, 60), longest_s))


class Backoff:
    """Waiting times that double up to a limit and are reset after a period without failures.

    >>> backoff = Backoff(first_s=1.0, longest_s=4.0)
    >>> [backoff.failed() for _ in range(4)]
    [1.0, 2.0, 4.0, 4.0]
    """

    def __init__(
        self,
        *,
        first_s: float,
        longest_s: float,
        steady_s: float = math.inf,
        dice: random.Random | None = None,
    ) -> None:
        """Set the bounds.

        Args:
            first_s: The first wait.
            longest_s: The longest wait.
            steady_s: The waits are reset after this long without a failure.
            dice: Source of jitter: shortens each wait by up to half, so that clients that failed together do not
                retry together.
        """
        self._first_s = first_s
        self._longest_s = longest_s
        self._steady_s = steady_s
        self._dice = dice
        self._failures = 0

    def failed(self, worked_s: float = 0.0) -> float:
        """Record a failure and return how long to wait, in seconds.

        Args:
            worked_s: How long it had worked before the failure, in seconds.
        """
        if worked_s >= self._steady_s:
            self._failures = 0
        self._failures += 1
        full_s = wait_s(self._failures, self._first_s, self._longest_s)
        return full_s * self._dice.uniform(0.5, 1.0) if self._dice else full_s
