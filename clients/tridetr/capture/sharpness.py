"""Sharpness of a camera's picture, now and as usual."""

from __future__ import annotations

import math

from tridetr.capture.cells import Map

# Sharpness below which a picture is blurred (0.25: no edges at all): absolute, and relative to the usual sharpness
_SOFT, _SOFT_CHANGE = 0.5, 0.5
_SHARP, _SOFT_ONCE_SHARP = 0.8, 0.4  # a camera that was sharp once is blurred below this
_FEWEST_TILES = 6  # with edges; fewer are not enough to judge sharpness
_GAIN = 0.36  # weight of one measurement: sharpness is noisy


class Sharpness:
    """Sharpness of the picture: the 80th percentile of its tiles' ratio of fine to coarse edge strength."""

    def __init__(self) -> None:
        self._usual = self._best = self._now = 0.0
        self._value: float | None = None  # None: too few tiles have edges

    def restart(self) -> None:
        """Prepare for a new stream of the same camera."""
        self._now, self._value = 0.0, None

    def measure(self, ratios: Map) -> None:
        """Take the squared ratios of the tiles that have edges; they are sorted in place."""
        if len(ratios) < _FEWEST_TILES:
            self._value = None
            return
        ratios.sort()
        value = math.sqrt(float(ratios[int(0.8 * len(ratios))]))
        before = self._now or value
        self._value = self._now = before + _GAIN * (value - before)

    def is_soft(self, known: bool) -> bool:
        if self._value is None:
            return False
        # The usual sharpness follows a slow loss of focus, for example by dew, and must not excuse it
        least = _SOFT_ONCE_SHARP if self._best >= _SHARP else 0.0
        return self._value < (
            min(_SOFT, max(_SOFT_CHANGE * self._usual, least)) if known else _SOFT
        )

    def learn(self, gain: float) -> None:
        if self._value is not None:
            self._usual += gain * (self._value - self._usual)
            self._best = max(self._best, self._value)
