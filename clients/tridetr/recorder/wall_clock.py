"""Check whether the wall clock can be trusted to determine the age of files."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from tridetr import boot_clock

logger = logging.getLogger("tridetr.recorder")

JUMP_NS = 3600 * 10**9  # a larger difference from the elapsed time means that the clock was set
_DAY_NS = 86_400 * 10**9


class WallClock:
    """Detects whether the wall clock was set recently.

    Args:
        watched: Periods in which recorders ran (Unix, ns), newest first. Setting the clock leaves a gap in them.
    """

    def __init__(self, watched: Sequence[tuple[int, int]]) -> None:
        self._shift_ns = boot_clock.wall_offset_ns()
        steady_ns = _steady_ns(watched, time.time_ns())
        self._doubted_ns = None if steady_ns is None else boot_clock.now_ns() - steady_ns

    def was_set(self) -> bool:
        """Return whether the clock was set since the last call; if so, it is not trusted for a day."""
        shift_ns = boot_clock.wall_offset_ns()
        before_ns, self._shift_ns = self._shift_ns, shift_ns
        if abs(shift_ns - before_ns) <= JUMP_NS:
            return False
        logger.warning(
            "the clock was changed by %.1f h: no visits are removed for their age for one day",
            (shift_ns - before_ns) / 3.6e12,
        )
        self._doubted_ns = boot_clock.now_ns()
        return True

    @property
    def is_trusted(self) -> bool:
        """Whether the clock has not been set for a day, or not at all as far as is known."""
        return self._doubted_ns is None or boot_clock.now_ns() - self._doubted_ns > _DAY_NS


def _steady_ns(watched: Sequence[tuple[int, int]], now_ns: int) -> int | None:
    """Return the nanoseconds since the last gap in the periods; None if there is no gap."""
    if not watched:
        return None
    began_ns = now_ns
    for started_ns, ended_ns in watched:
        if not -JUMP_NS <= began_ns - ended_ns <= _DAY_NS:
            return now_ns - began_ns
        began_ns = min(began_ns, started_ns)
    return None
