"""Average the time between pictures or results. Pure: all times are arguments."""

from __future__ import annotations

import math

_MEMORY_S = 30.0  # time constant of the average
_CALM = 0.75  # share of the limit below which the average is in order again, so that it does not flicker


class MeanInterval:
    """Averages intervals over half a minute or so, and judges whether they are too long.

    Args:
        longest_s: Longest average that is in order [s].

    Attributes:
        is_long: Whether the average is too long.

    Example:
        >>> mean = MeanInterval(2.0)
        >>> for _ in range(20):
        ...     mean.add(3.0)
        >>> mean.is_long
        True
    """

    def __init__(self, longest_s: float) -> None:
        self.is_long = False
        self._longest_s = longest_s
        self._mean_s = 0.0

    def add(self, interval_s: float, *, counts: bool = True) -> None:
        """Add an interval [s]; one that does not count is averaged as none."""
        weight = -math.expm1(-interval_s / _MEMORY_S)
        self._mean_s += (interval_s * counts - self._mean_s) * weight
        self.is_long = self._mean_s > self._longest_s * (_CALM if self.is_long else 1)
