"""How long to wait before a lost source is opened again. Pure but for the dice it is given."""

from __future__ import annotations

import random


class Backoff:
    """Exponential, with jitter, for ever: cameras that came back together do not call together.

    >>> backoff = Backoff(random.Random(0), first_s=1.0, longest_s=4.0)
    >>> all(0.5 * full <= backoff.failed(0.0) <= full for full in (1.0, 2.0, 4.0, 4.0))
    True
    """

    def __init__(
        self,
        dice: random.Random,
        *,
        first_s: float = 0.25,
        longest_s: float = 10.0,
        stable_s: float = 5.0,
    ) -> None:
        """Set the bounds.

        Args:
            dice: where the jitter comes from.
            first_s: the longest first wait.
            longest_s: the longest wait ever.
            stable_s: a source that delivered for that long starts at `first_s` again.
        """
        self._dice = dice
        self._first_s = first_s
        self._longest_s = longest_s
        self._stable_s = stable_s
        self._next_s = first_s

    def failed(self, delivered_s: float) -> float:
        """Note a failure and return how long to wait [s].

        Args:
            delivered_s: for how long frames had come before [s]; 0 where it could not be opened.
        """
        if delivered_s >= self._stable_s:
            self._next_s = self._first_s
        full = self._next_s
        self._next_s = min(self._longest_s, 2 * full)
        return full * self._dice.uniform(0.5, 1.0)
