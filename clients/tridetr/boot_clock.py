"""Differences between the machine's clocks, and whether its wall clock is right."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

from tridetr.shm.layout import boot_words

_UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)
_SIZE = 1024  # more than struct timex has on any architecture; all zero = only read
_RTC = Path("/sys/class/rtc")
_MOST_OFF_S = 86_400  # a clock chip may run in local time
_EARLIEST_UNIX_S = 1_767_225_600  # 2026: a chip without power starts years before
_BELIEVED_AFTER_S = 1800


def boot_id() -> str:
    """Return the ID of the machine's current boot."""
    return f"{boot_words()[0]:016x}"


def now_ns() -> int:
    """Return the time since the machine was started, including the time for which it was suspended [ns]."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def suspended_ns() -> int:
    """Return for how long the machine was suspended since it was started, which CLOCK_MONOTONIC does not count [ns].

    An interruption between the two readings makes it smaller, never larger.
    """
    return max(0, now_ns() - time.monotonic_ns())


def wall_offset_ns() -> int:
    """Return how far the wall clock is ahead of the time since the machine was started [ns]."""
    return time.time_ns() - now_ns()


def is_right() -> bool:
    """Return whether the clock is synchronised over the network, or agrees with the machine's clock chip.

    Without a battery, a machine starts with the time that it last saved, however long it was off.
    """
    return _is_synchronised() or any(_agrees(chip) for chip in sorted(_RTC.glob("rtc*")))


def is_believed() -> bool:
    """Return whether the clock is right, or the machine was started half an hour ago or earlier.

    Some machines never know: they have neither a time server nor a clock chip, or their time service does not report to
    the kernel, or a container hides both.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME) >= _BELIEVED_AFTER_S or is_right()


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
        unix_s = int((chip / "since_epoch").read_text())
        return unix_s >= _EARLIEST_UNIX_S and abs(unix_s - time.time()) < _MOST_OFF_S
    except (OSError, ValueError):
        return False
