"""Detects a camera that keeps delivering the identical picture. Does no I/O.

The noise of a real sensor changes some pixels in every frame. Every eighth row is compared, twice a
second (in each frame while frozen, to notice the end immediately); a check takes about 30 µs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tridetr.capture.sources.base import Plane

ROW_STEP = 8
_CHECK_EVERY_NS = 500_000_000


class FrozenDetector:
    """Detects that the picture has not changed for a given time.

    >>> detector = FrozenDetector(frozen_s=2.0)
    >>> grey = np.zeros((16, 16), np.uint8)
    >>> [detector.judge(lambda step: grey[::step], second * 10**9) for second in range(4)]
    [False, False, True, True]
    """

    def __init__(self, frozen_s: float) -> None:
        """Set for how long the picture must not change [s]."""
        self._frozen_ns = round(frozen_s * 1e9)
        self._check_every_ns = min(_CHECK_EVERY_NS, self._frozen_ns // 4)
        self._sample: Plane | None = None
        self._changed_ns = 0
        self._next_check_ns = 0
        self._frozen = False

    def reset(self) -> None:
        """Forget the last picture, because the source was reopened."""
        self._sample = None
        self._frozen = False

    def judge(self, rows: Callable[[int], Plane], now_ns: int) -> bool:
        """Judge a frame.

        Args:
            rows: Returns every n-th row of the luma plane, uint8 [rows, width]; called only when a check is due.
            now_ns: Monotonic time [ns].

        Returns:
            Whether the camera is frozen.
        """
        if self._sample is not None and now_ns < self._next_check_ns and not self._frozen:
            return False
        self._next_check_ns = now_ns + self._check_every_ns
        sample = rows(ROW_STEP)
        if self._sample is None or not np.array_equal(sample, self._sample):
            self._sample = sample.copy()
            self._changed_ns = now_ns
            self._frozen = False
        else:
            self._frozen = now_ns - self._changed_ns >= self._frozen_ns
        return self._frozen
