"""The time zone of schedules and notifications: the machine's, or the one that `TZ` names."""

from __future__ import annotations

import os
import re
import time
from datetime import datetime
from pathlib import Path

_ZONES = "/usr/share/zoneinfo"
# The C library reads the rest of a rule leniently
_RULE = re.compile(r"([A-Za-z]{3,}|<[A-Za-z0-9+-]{3,}>)[+-]?\d[\d:]*(|[A-Za-z<].*)")


def time_zone_fault() -> str:
    """Return why `TZ` cannot be used, for which the C library silently takes UTC; empty if it can."""
    setting = os.environ.get("TZ", "")
    zone = setting.removeprefix(":")
    if not zone or _RULE.fullmatch(zone):
        return ""
    folder = os.environ.get("TZDIR", _ZONES)
    try:
        with Path(folder, zone).open("rb") as file:
            if file.read(4) == b"TZif":
                return ""
    except (OSError, ValueError):
        pass
    return f"{setting!r} is not a time zone in {folder}, so local time is UTC"


def describe_time_zone() -> str:
    """Return the time zone of this process and its current offset, such as ``Europe/Berlin (CET, UTC+01:00)``."""
    moment = datetime.now().astimezone().isoformat(timespec="minutes")
    zone = os.environ.get("TZ", "the machine's time zone") or "UTC, because TZ is empty"
    return f"{zone} ({time.tzname[time.localtime().tm_isdst > 0]}, UTC{moment[16:]})"
