"""Steps of the wall clock, and whether it can be compared with times saved before the machine was started."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

from tridetr.shm.layout import boot_words

_UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)
_SIZE = 1024  # more than struct timex has on any architecture; all zero = only read
_STEP_NS = 1_000_000_000  # less is slewing, or the time between the two readings
_RTC = Path("/sys/class/rtc")
_MOST_OFF_S = 86_400  # a clock chip may run in local time


def boot_id() -> str:
    """Return the ID of the machine's current boot."""
    return f"{boot_words()[0]:016x}"


def offset_ns() -> int:
    """Return how far the wall clock is ahead of the time since the machine was started [ns]; always positive."""
    return max(1, time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME))


def stepped_ns(offset_before_ns: int) -> int:
    """Return how far the wall clock was set forward (or back: negative) since ``offset_ns`` had a value [ns].

    Args:
        offset_before_ns: that value, from the same boot; 0 = unknown.
    """
    step_ns = offset_ns() - offset_before_ns
    return step_ns if offset_before_ns and abs(step_ns) >= _STEP_NS else 0


def is_right() -> bool:
    """Return whether the clock is synchronised over the network, or agrees with the machine's clock chip.

    Without a battery, a machine starts with the time that it last saved, however long it was off.
    """
    return _is_synchronised() or any(_agrees(chip) for chip in sorted(_RTC.glob("rtc*")))


def _is_synchronised() -> bool:
    try:
        return ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_SIZE)) not in (
            -1,
            _UNSYNCHRONISED,
        )
    except (OSError, AttributeError):
        return False


def _agrees(chip: Path) -> bool:
    try:
        return abs(int((chip / "since_epoch").read_text()) - time.time()) < _MOST_OFF_S
    except (OSError, ValueError):
        return False
