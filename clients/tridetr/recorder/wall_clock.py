"""Whether the wall clock can be trusted to say how old something is."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

logger = logging.getLogger("tridetr.recorder")

JUMP_NS = 3600 * 10**9  # a clock that differs by more from what has passed was set
_DAY_NS = 86_400 * 10**9


class WallClock:
    """Finds out whether the wall clock was set lately.

    Args:
        watched: From when to when recorders have run (Unix), the newest first. A clock that was set makes a gap.
    """

    def __init__(self, watched: Sequence[tuple[int, int]]) -> None:
        self._shift_ns = time.time_ns() - time.monotonic_ns()
        steady_ns = _steady_ns(watched, time.time_ns())
        self._doubted_ns = None if steady_ns is None else time.monotonic_ns() - steady_ns

    def was_set(self) -> bool:
        """Return whether the clock was set since the last call; it is doubted then."""
        monotonic_ns = time.monotonic_ns()
        shift_ns = time.time_ns() - monotonic_ns
        before_ns, self._shift_ns = self._shift_ns, shift_ns
        if abs(shift_ns - before_ns) <= JUMP_NS:
            return False
        logger.warning(
            "the clock was set by %.1f h: no evidence is removed for its age for a day",
            (shift_ns - before_ns) / 3.6e12,
        )
        self._doubted_ns = monotonic_ns
        return True

    @property
    def is_trusted(self) -> bool:
        """Whether the clock has run evenly for a day, or always."""
        return self._doubted_ns is None or time.monotonic_ns() - self._doubted_ns > _DAY_NS


def _steady_ns(watched: Sequence[tuple[int, int]], now_ns: int) -> int | None:
    """Return for how long the clock has run evenly; None: as long as is known."""
    if not watched:
        return None
    began_ns = now_ns
    for started_ns, ended_ns in watched:
        if not -JUMP_NS <= began_ns - ended_ns <= _DAY_NS:
            return now_ns - began_ns
        began_ns = min(began_ns, started_ns)
    return None
