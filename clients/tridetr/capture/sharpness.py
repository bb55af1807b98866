"""Sharpness of a camera's picture, now and as usual."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tridetr.capture.cells import Map

# Sharpness below which a picture is blurred (0.25: no edges at all): absolute, and relative to the usual sharpness
_SOFT, _SOFT_CHANGE = 0.5, 0.5
_SHARP, _SOFT_ONCE_SHARP = 0.8, 0.4  # a camera that was sharp once is blurred below this
_FEWEST_TILES = 6  # with edges; fewer are not enough to judge sharpness
_GAIN = 0.36  # weight of one measurement: sharpness is noisy


@dataclass(slots=True)
class Reading:
    """Sharpness of one picture.

    Attributes:
        value: None if too few tiles have edges.
        smoothed: Last value; 0 before the first.
    """

    value: float | None = None
    smoothed: float = 0.0

    def measure(self, ratios: Map) -> None:
        """Take the squared ratios of the tiles that have edges; they are sorted in place."""
        if len(ratios) < _FEWEST_TILES:
            self.value = None
            return
        ratios.sort()
        value = math.sqrt(float(ratios[int(0.8 * len(ratios))]))
        before = self.smoothed or value
        self.value = self.smoothed = before + _GAIN * (value - before)


class Sharpness:
    """Usual sharpness: the 80th percentile of the tiles' ratio of fine to coarse edge strength."""

    def __init__(self) -> None:
        self._usual = self._best = 0.0

    def is_soft(self, reading: Reading, known: bool) -> bool:
        """Return whether a picture is blurred; without a known usual sharpness, compared with an absolute one."""
        if reading.value is None:
            return False
        # The usual sharpness follows a slow loss of focus, for example by dew, and must not excuse it
        least = _SOFT_ONCE_SHARP if self._best >= _SHARP else 0.0
        return reading.value < (
            min(_SOFT, max(_SOFT_CHANGE * self._usual, least)) if known else _SOFT
        )

    def learn(self, reading: Reading, gain: float) -> None:
        """Move the usual sharpness towards a picture's by the share `gain`."""
        if reading.value is not None:
            self._usual += gain * (reading.value - self._usual)
            self._best = max(self._best, reading.value)
