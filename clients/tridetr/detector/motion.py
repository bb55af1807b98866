"""Detect changes in the picture of a fixed camera. Pure.

The picture is reduced to the mean brightness of about 60 x 34 patches, at two scales: single patches (for a small,
distant object) and averages of 3 x 3 patches (for a large object with little contrast). Changes of lighting are
removed, and the noise of each patch is learnt. Two tests run at both scales:

- *sudden*: compares the picture with its running average;
- *drift*: compares the running average with its value at the last inference, so that slow movement accumulates.

A test fires when a patch deviates by more than `_SIGMAS` times its learnt noise. The threshold is bounded: a deviation
below the floor is never a change, and one above the ceiling always is. Patches that change all the time (a flag, or a
clock that the camera draws into its picture) are ignored as long as they are few.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Patches = NDArray[np.float32]

_COLUMNS = 60
_ROWS_PER_PATCH = 4  # sampled rows; all pixels of a sampled row are used
_PAIRS = np.uint64(0x00FF00FF00FF00FF)

_SIGMAS = 6.5
_FLOOR = np.array([2.5, 1.0], np.float32)[:, None, None]  # single patches, 3 x 3 averages
_CEILING = np.array([12.0, 5.0], np.float32)[:, None, None]
_BRIGHTEST = 12.0  # a larger offset of the whole picture (a lamp) counts as a change
_LARGEST_NOISE = _CEILING / _SIGMAS
_AVERAGE_WEIGHT = 0.3  # weight of the newest picture; about a second in standby
_NOISE_WEIGHT = 0.02
# Noise of the difference of two running averages, relative to the noise of a picture's deviation from its average.
_DRIFT_NOISE = 0.6
_LEARNING = 10  # pictures until the noise estimate is used
_RESTLESS = 0.15  # share of recent pictures in which a patch has changed
_RESTLESS_WEIGHT = 0.005  # weight of the newest picture; about a minute in standby
_MOST_RESTLESS = 0.03  # share of all patches; if more are restless, none is ignored
_TYPICAL = 0.6745  # median of |z| of Gaussian noise
_TINY = np.float32(1e-3)


class PatchGrid:
    """Computes the mean brightness of the patches of a picture of a fixed size; buffers are reused.

    Example:
        >>> PatchGrid(1920, 1080)(np.full((1080, 1920), 7, np.uint8)).shape
        (34, 60)
    """

    def __init__(self, width: int, height: int) -> None:
        """Compute the layout of the patches.

        Args:
            width: Width of the pictures in pixels, even.
            height: Height of the pictures in pixels.
        """
        side = max(8, 2 * round(width / _COLUMNS / 2))
        step = max(1, side // _ROWS_PER_PATCH)
        self._used = width // 8 * 8
        self._rows = slice(step // 2, None, step)
        rows = len(range(step // 2, height, step))
        self._low = np.empty((rows, self._used // 8), np.uint64)
        self._high = np.empty_like(self._low)
        self._each = side // step  # rows of one patch
        tops = np.arange(0, rows, self._each)
        self._lefts = np.arange(0, self._used // 2, side // 2)
        heights = np.diff(tops, append=rows)
        widths = 2 * np.diff(self._lefts, append=self._used // 2)
        self._scale = (1 / np.outer(heights, widths)).astype(np.float32)
        self._sums = np.empty((len(tops), self._used // 8), np.uint64)
        self.shape = self._scale.shape

    def __call__(self, luma: NDArray[np.uint8]) -> Patches:
        """Return the mean brightness of each patch, float32 [R, C], of luma uint8 [H, W]."""
        # 8 pixels per word, split into 16-bit lanes
        eight = luma[self._rows, : self._used].view(np.uint64)
        np.right_shift(eight, np.uint64(8), out=self._high)
        np.bitwise_and(self._high, _PAIRS, out=self._high)
        np.bitwise_and(eight, _PAIRS, out=self._low)
        np.add(self._low, self._high, out=self._low)
        self._sums[:] = self._low[:: self._each]
        for row in range(1, self._each):
            rows = self._low[row :: self._each]
            self._sums[: len(rows)] += rows
        pairs = self._sums.view(np.uint16)
        return np.add.reduceat(pairs, self._lefts, axis=1, dtype=np.uint32) * self._scale


class MotionDetector:
    """Detects motion between successive pictures of a fixed camera.

    Attributes:
        learning: Whether too few pictures were seen to estimate the noise.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        """Start without a noise estimate.

        Args:
            shape: Rows and columns of the patch grid.
        """
        both = (2, *shape)
        self._now, self._average, self._reference, self._deviation, self._limit, self._scratch = (
            np.zeros(both, np.float32) for _ in range(6)
        )
        self._variance = np.full(both, _LARGEST_NOISE**2, np.float32)
        self._restless = np.zeros(both, np.float32)
        self._changed = np.zeros(both, np.bool_)
        self._most_restless = int(_MOST_RESTLESS * self._changed.size)
        self._weights = 1 / _sum3x3(np.ones(shape, np.float32), np.empty(shape, np.float32))
        self._seen = 0
        self._has_average = self._has_reference = False

    @property
    def learning(self) -> bool:
        return self._seen < _LEARNING

    def changed(self, patches: Patches) -> bool:
        """Process the next picture and return whether it has changed.

        Args:
            patches: float32 [R, C], the mean brightness from :class:`PatchGrid`.

        Returns:
            Whether it differs from the pictures before, or from the one that :meth:`looked` was called for.
        """
        now, average, limit, changed = self._now, self._average, self._limit, self._changed
        now[0] = patches
        np.multiply(_sum3x3(patches, self._scratch[0]), self._weights, out=now[1])
        if not self._has_average:
            average[:] = now
            self._has_average = True
            return True
        deviation = self._deviate(now, average)
        np.sqrt(self._variance, out=limit)
        # A key frame or a darker exposure makes the whole picture noisier; a moving person does not.
        np.divide(deviation[0], limit[0], out=self._scratch[0])
        limit *= _SIGMAS * max(1.0, _median(self._scratch[0]) / _TYPICAL)
        np.maximum(limit, _FLOOR, out=limit)
        np.minimum(limit, _CEILING, out=limit)
        np.greater(deviation, limit, out=changed)
        self._learn(deviation)
        np.subtract(now, average, out=now)
        now *= _AVERAGE_WEIGHT
        average += now
        if not self._has_reference:
            return True
        limit *= _DRIFT_NOISE
        changed |= self._deviate(average, self._reference) > limit
        return self._any_but_restless()

    def looked(self) -> None:
        """Record that the newest picture was inferred: drift is measured from here."""
        self._reference[:] = self._average
        self._has_reference = True

    def interrupted(self) -> None:
        """Record a gap in the pictures: only the learnt noise stays valid."""
        self._has_average = self._has_reference = False

    def _any_but_restless(self) -> bool:
        """Return whether a patch has changed that is not restless."""
        changed, restless = self._changed, self._restless
        restless *= 1 - _RESTLESS_WEIGHT
        np.add(restless, _RESTLESS_WEIGHT, out=restless, where=changed)
        if not changed.any():
            return False
        known = restless > _RESTLESS
        # A 3 x 3 average that includes a restless patch is restless, too.
        around = _sum3x3(known[0].astype(np.float32), self._scratch[0])
        known[1] |= around > 0
        if np.count_nonzero(known) <= self._most_restless:
            changed &= ~known
        return bool(changed.any())

    def _deviate(self, picture: Patches, before: Patches) -> Patches:
        """Return |picture - before| after removing a change of lighting, modelled as an offset and a gain."""
        deviation, level = self._deviation, self._scratch
        np.subtract(picture, before, out=deviation)
        deviation -= max(-_BRIGHTEST, min(_BRIGHTEST, _median(deviation[0])))
        np.subtract(before, before[0].mean(), out=level)
        single = level[0]
        bounded = np.minimum(deviation[0], _CEILING[0])
        np.maximum(bounded, -_CEILING[0], out=bounded)
        level *= np.vdot(bounded, single) / (np.vdot(single, single) + _TINY)
        deviation -= level
        np.abs(deviation, out=deviation)
        return deviation

    def _learn(self, deviation: Patches) -> None:
        """Update the noise estimate of each patch; deviations are capped at the largest noise."""
        self._seen += 1
        np.minimum(deviation, _LARGEST_NOISE, out=deviation)
        np.square(deviation, out=deviation)
        deviation -= self._variance
        deviation *= max(_NOISE_WEIGHT, 1 / self._seen)
        self._variance += deviation
        np.maximum(self._variance, _TINY, out=self._variance)


def _median(patches: Patches) -> float:
    """Return the median of every third patch, an approximation of the median of all."""
    some = patches.ravel()[::3]
    return float(np.partition(some, some.size // 2)[some.size // 2])


def _sum3x3(patches: Patches, columns: Patches) -> Patches:
    """Return the sum of each patch and its 8 neighbours; ``columns`` is a scratch buffer."""
    columns[:] = patches
    columns[:, 1:] += patches[:, :-1]
    columns[:, :-1] += patches[:, 1:]
    sums: Patches = columns.copy()
    sums[1:] += columns[:-1]
    sums[:-1] += columns[1:]
    return sums
