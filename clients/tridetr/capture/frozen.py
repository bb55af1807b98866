"""Detects a camera that keeps delivering the same pictures. Does no I/O.

The noise of a real sensor changes some pixels in every frame, so no picture ever returns. If a camera's sensor
hangs, or a video recorder shows "no signal", the encoder behind it may still run: its pictures then differ a little
from key frame to key frame, but return with each group of pictures, or after a few. So does a short recording that is
played in a loop. A camera is frozen when it has sent no new picture for a while.

Every eighth row is compared, without the margins, twice a second (in each frame while frozen, to notice the end
soon); a check takes about 60 µs.
"""

from __future__ import annotations

from collections.abc import Callable

from tridetr.capture.sources.base import Plane

ROW_STEP = 8
_MARGIN = 0.1  # of the height, at top and bottom, where cameras overlay date and name
_CHECK_EVERY_NS = 500_000_000
_REMEMBERED = 600  # pictures: five minutes of checks
_SURELY_NEW_NS = 2_000_000_000


class FrozenDetector:
    """Detects that no new picture has come for a given time.

    >>> import numpy as np
    >>> detector = FrozenDetector(frozen_s=2.0)
    >>> grey = np.zeros((16, 16), np.uint8)
    >>> [detector.judge(lambda step: grey[::step], second * 10**9) for second in range(4)]
    [False, False, True, True]
    """

    def __init__(self, frozen_s: float, *, may_repeat: bool = False) -> None:
        """Set the limit.

        Args:
            frozen_s: For how long there must be no new picture [s].
            may_repeat: Whether earlier pictures may return, as in a file that is played in a loop; then only a
                picture that does not change at all is frozen.
        """
        self._frozen_ns = round(frozen_s * 1e9)
        self._check_every_ns = min(_CHECK_EVERY_NS, self._frozen_ns // 4)
        self._may_repeat = may_repeat
        self._forget()

    def reopened(self) -> None:
        """Prepare for a reopened source; a hung camera stays frozen even if it reconnects again and again."""
        if self._may_repeat:
            self._forget()

    def _forget(self) -> None:
        self._seen: dict[int, None] = {}  # hashes of pictures; the one that came last is the last
        self._last: int | None = None
        self._new_ns = 0  # when the last new picture came
        self._returned_ns: int | None = None  # when a picture other than the last one returned
        self._next_check_ns = 0
        self._frozen = False

    def judge(self, rows: Callable[[int], Plane], now_ns: int) -> bool:
        """Judge a frame.

        Args:
            rows: Returns every n-th row of the luma plane, uint8 [rows, width]; called only when a check is due.
            now_ns: Monotonic time [ns].

        Returns:
            Whether the camera is frozen.
        """
        if now_ns < self._next_check_ns and not self._frozen:
            return False
        self._next_check_ns = now_ns + self._check_every_ns
        sample = rows(ROW_STEP)
        margin = round(len(sample) * _MARGIN)
        picture = hash(sample[margin : len(sample) - margin].tobytes())
        if picture not in self._seen:
            # Between pictures that return, one may be new: a hung camera's encoder varies slightly
            if self._returned_ns is None or now_ns - self._returned_ns >= _SURELY_NEW_NS:
                self._frozen = False
            if not self._frozen:
                self._new_ns = now_ns
        else:
            if picture != self._last:
                self._returned_ns = now_ns
            self._frozen = now_ns - self._new_ns >= self._frozen_ns
        self._seen.pop(picture, None)
        self._seen[picture] = None
        if len(self._seen) > (1 if self._may_repeat else _REMEMBERED):
            del self._seen[next(iter(self._seen))]
        self._last = picture
        return self._frozen
