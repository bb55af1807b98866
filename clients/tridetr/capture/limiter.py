"""Keeps a log readable when the same thing goes wrong many times a second. Pure."""

from __future__ import annotations


class Limiter:
    """Lets one line through per interval and counts the others.

    >>> limiter = Limiter(every_s=10.0)
    >>> [limiter.allow(second) for second in (0.0, 1.0, 2.0, 11.0)]
    [0, None, None, 2]
    """

    def __init__(self, every_s: float) -> None:
        """Set the least time between two lines [s]."""
        self._every_s = every_s
        self._last_s: float | None = None
        self._kept_back = 0

    def allow(self, now_s: float) -> int | None:
        """Return how many lines were kept back before this one, None to keep this one back too."""
        if self._last_s is not None and now_s - self._last_s < self._every_s:
            self._kept_back += 1
            return None
        self._last_s = now_s
        kept_back, self._kept_back = self._kept_back, 0
        return kept_back
