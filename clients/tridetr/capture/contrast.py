"""Contrast of a camera's picture, compared with what it was."""

from __future__ import annotations

import math

from tridetr.capture.cells import MIDDLE_STEPS, middle_contrast
from tridetr.capture.window import Window

# Relative to the contrast of a view in the same light; below, nobody could be seen any more
_FAINT = 0.15
_LEAST = 4.0 * MIDDLE_STEPS  # with less, a view is too dark to compare with


class Contrast:
    """Contrast that is left in the middle rows, now or on average (see `cells.middle_contrast`)."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget the measured contrast."""
        self._left = self._least = math.inf

    def measure(self, window: Window, noise: float, usual: float) -> None:
        """Measure the contrast of the newest look, and of the window if that one is low.

        Args:
            window: The last looks.
            noise: Of a cell in one look [levels].
            usual: Contrast of the views that it will be compared with, at most.
        """
        least = _FAINT * _FAINT * usual
        of_noise = 2 * noise * noise * MIDDLE_STEPS
        was_low, self._left = self._left < least, middle_contrast(window.steps) - of_noise
        if was_low or self._left < least:
            average = middle_contrast(window.mean[:, 1:] - window.mean[:, :-1])
            self._left = min(self._left, average - of_noise / window.looks)
        self._least = min(self._least, self._left)

    def take_least(self) -> float:
        """Return the least contrast since the last call; infinity if none was measured."""
        least, self._least = self._least, math.inf
        return least

    def has_faded(self, before: float, light: float = 1.0) -> bool:
        """Return whether hardly any contrast is left.

        Args:
            before: What it was (see `cells.middle_contrast`).
            light: Brightness relative to that time: less light means less contrast.
        """
        return before > _LEAST and self._left < (_FAINT * light) ** 2 * before
