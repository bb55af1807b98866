"""Sharpness of a camera's picture, now and as usual."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tridetr.capture.cells import Map

# Sharpness below which a picture is blurred (0.25: no edges at all): absolute, and relative to the usual sharpness
_SOFT, _SOFT_CHANGE = 0.5, 0.5
_SHARP, _SOFT_ONCE_SHARP = 0.8, 0.4  # a camera that was sharp once is blurred below this
_FEWEST_TILES = 6  # with edges; fewer are not enough to judge sharpness
# Energy of normal noise in fine edges: 2 of a sample's variance. A change has 12 of a cell's, which has 16 samples, and
# the mean magnitude of normal noise is sqrt(2 / pi) of its deviation
_OF_CHANGE = 2 * 16 / 12 * math.pi / 2
_NOISE_RANGE = 2.5  # energy of noise in the light, relative to that in the dark; more is movement
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

    def measure(self, energy: Map, change: Map, noise: float) -> None:
        """Take the energy of a picture's edges, see `sharpness_of`."""
        self.value = sharpness_of(energy, change, noise)
        if self.value is not None:
            before = self.smoothed or self.value
            self.value = self.smoothed = before + _GAIN * (self.value - before)


def sharpness_of(energy: Map, change: Map, noise: float) -> float | None:
    """Return the 80th percentile of the tiles' ratio of fine to coarse edge strength.

    Args:
        energy: Of fine and coarse edges in each tile [2, 8, 8].
        change: Mean magnitude of what changes in the cells' curvature from look to look, in each tile [looks, 8, 8].
        noise: Of a cell in one look [levels].

    Returns:
        The sharpness; None if too few tiles have edges.
    """
    fine, coarse = energy
    clear = coarse > max(1.0, 16 * noise * noise)
    count = np.count_nonzero(clear)
    if count < _FEWEST_TILES:
        return None
    # Noise adds to the fine edges. So does movement, but not in the quietest tiles
    tiles = fine.flatten()
    tiles.partition(6)
    of_noise = min(float(tiles[6]), 32 * noise * noise)
    # The tiles with edges can be brighter, and have more noise: in the looks in which little moves, they show how much
    changes = change[:, clear]
    changes.partition(count // 2)
    quiet = np.sort(changes[:, count // 2])[len(changes) // 3]
    there = _OF_CHANGE * float(quiet) ** 2
    of_noise = min(max(of_noise, there), _NOISE_RANGE * of_noise)
    ratios = (np.maximum(fine - of_noise, 0) / np.maximum(coarse, 1))[clear]
    ratios.sort()
    return math.sqrt(float(ratios[int(0.8 * len(ratios))]))


class Sharpness:
    """Usual sharpness, see `sharpness_of`."""

    def __init__(self) -> None:
        self._usual = self._best = 0.0

    def is_soft(self, value: float | None, known: bool) -> bool:
        """Return whether a picture is blurred; without a known usual sharpness, compared with an absolute one."""
        if value is None:
            return False
        # The usual sharpness follows a slow loss of focus, for example by dew, and must not excuse it
        least = _SOFT_ONCE_SHARP if self._best >= _SHARP else 0.0
        return value < (min(_SOFT, max(_SOFT_CHANGE * self._usual, least)) if known else _SOFT)

    def learn(self, reading: Reading, gain: float) -> None:
        """Move the usual sharpness towards a picture's by the share `gain`."""
        if reading.value is not None:
            self._usual += gain * (reading.value - self._usual)
            self._best = max(self._best, reading.value)
