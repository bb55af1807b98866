"""Whether the wall clock can be compared with times that were saved before the machine was started."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

from tridetr.shm.layout import boot_words

_UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)
_SIZE = 1024  # more than struct timex has on any architecture; all zero = only read
_RTC = Path("/sys/class/rtc")
_MOST_OFF_S = 86_400  # a clock chip may run in local time


def boot_id() -> str:
    """Return the ID of the machine's current boot."""
    return f"{boot_words()[0]:016x}"


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
