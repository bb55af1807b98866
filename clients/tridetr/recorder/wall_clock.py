"""Whether the wall clock can be trusted to say how old something is."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger("tridetr.recorder")

JUMP_NS = 3600 * 10**9  # a clock that differs by more from what has passed was set
_DAY_NS = 86_400 * 10**9


class WallClock:
    """Finds out whether the wall clock was set lately.

    Args:
        last_unix_ns: When it was known last; 0 = never.
    """

    def __init__(self, last_unix_ns: int) -> None:
        self._shift_ns = time.time_ns() - time.monotonic_ns()
        paused_ns = time.time_ns() - last_unix_ns
        self._doubted_ns: int | None = None
        if last_unix_ns and not -JUMP_NS <= paused_ns <= _DAY_NS:
            self._doubted_ns = time.monotonic_ns()

    def can_be_trusted(self, now_unix_ns: int) -> bool:
        """Return whether the clock has run evenly for a day, or since the start."""
        monotonic_ns = time.monotonic_ns()
        shift_ns = now_unix_ns - monotonic_ns
        if abs(shift_ns - self._shift_ns) > JUMP_NS:
            logger.warning(
                "the clock was set by %.1f h: no evidence is removed for its age for a day",
                (shift_ns - self._shift_ns) / 3.6e12,
            )
            self._doubted_ns = monotonic_ns
        self._shift_ns = shift_ns
        return self._doubted_ns is None or monotonic_ns - self._doubted_ns > _DAY_NS
