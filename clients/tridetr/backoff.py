"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import math
import random


def wait_s(failures: int, first_s: float, longest_s: float) -> float:
    """Return how long to wait after so many failures in a row, at least one [s].

    >>> [wait_s(failures, 0.1, 0.5) for failures in (1, 2, 3, 4, 5000)]
    [0.1, 0.2, 0.4, 0.5, 0.5]
    """
    return float(min(first_s * 2.0 ** min(failures - 1, 60), longest_s))


class Backoff:
    """Waits that double up to a limit, and start over after a time without failure.

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
            steady_s: After having worked for so long, the waits start over.
            dice: Shortens each wait by up to half, so that many that failed together do not try together.
        """
        self._first_s = first_s
        self._longest_s = longest_s
        self._steady_s = steady_s
        self._dice = dice
        self._failures = 0

    def failed(self, worked_s: float = 0.0) -> float:
        """Note a failure and return how long to wait [s].

        Args:
            worked_s: For how long it had worked before [s].
        """
        if worked_s >= self._steady_s:
            self._failures = 0
        self._failures += 1
        full_s = wait_s(self._failures, self._first_s, self._longest_s)
        return full_s * self._dice.uniform(0.5, 1.0) if self._dice else full_s
