"""Weekly schedules in local time, such as ``mon-fri 22:00-06:00``: parse them and evaluate them at a moment."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SHAPE = re.compile(r"(?:([a-z,-]+) +)?(\d\d?):(\d\d)-(\d\d?):(\d\d)")
_DAY_MINUTES = 24 * 60
# A week and a clock change: a schedule that ever changes has changed within it
_PERIOD_S = 7.5 * 86_400
_HINT = "write it like `22:00-06:00`, `mon-fri 22:00-06:00` or `sat,sun 00:00-24:00`"


@dataclass(frozen=True, slots=True)
class Window:
    """One weekly period.

    Attributes:
        days: Weekdays on which it begins, Monday = 0.
        start: Minute of the day at which it begins.
        end: Minute at which it ends, counted from the midnight before ``start``; above 1440 if that is on the
            next day.
    """

    days: frozenset[int]
    start: int
    end: int


def parse_window(text: str) -> Window:
    """Parse a weekly period.

    Raises:
        ValueError: The text is not a weekly period.

    Example:
        >>> parse_window("sat,sun 22:00-06:00")
        Window(days=frozenset({5, 6}), start=1320, end=1800)
    """
    match = _SHAPE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"not a weekly period; {_HINT}")
    days, *numbers = match.groups()
    hours, minutes, end_hours, end_minutes = map(int, numbers)
    start, end = hours * 60 + minutes, end_hours * 60 + end_minutes
    if max(minutes, end_minutes) > 59 or start >= _DAY_MINUTES or end > _DAY_MINUTES:
        raise ValueError(f"not a time of day; {_HINT}")
    if start == end:
        raise ValueError(f"it begins and ends at the same time; {_HINT}")
    return Window(_days(days), start, end if end > start else end + _DAY_MINUTES)


def _days(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.split(","):
        first, separator, last = part.partition("-")
        if first not in DAYS or (separator and last not in DAYS):
            raise ValueError(f"unknown day in {text!r}: use {', '.join(DAYS)}")
        begin = DAYS.index(first)
        length = (DAYS.index(last) - begin) % 7 if separator else 0
        found |= {(begin + day) % 7 for day in range(length + 1)}
    return frozenset(found)


def _checked(text: str) -> str:
    parse_window(text)
    return text


WeeklyTime = Annotated[str, AfterValidator(_checked)]


@dataclass(frozen=True, slots=True)
class _Known:
    """The state between two neighbouring edges of windows [Unix seconds], in a time zone."""

    begin: float
    end: float
    holds: bool
    changed_at: float | None
    zone: tuple[object, ...] = ()


class Schedule:
    """The union of several weekly periods; an empty schedule always holds and never changes.

    Example:
        >>> from datetime import datetime
        >>> nights = Schedule(["mon-fri 22:00-06:00"])
        >>> nights.holds(datetime(2026, 1, 6, 23, 0).timestamp())  # a Tuesday
        True
        >>> nights.holds(datetime(2026, 1, 6, 12, 0).timestamp())
        False
    """

    def __init__(self, windows: Iterable[str]) -> None:
        self._windows = [parse_window(text) for text in windows]
        self._known = _Known(0, 0, True, None)

    def holds(self, unix_s: float) -> bool:
        """Return whether the moment (Unix seconds) is in one of the periods."""
        return not self._windows or self._at(unix_s).holds

    def changed_at(self, unix_s: float) -> float | None:
        """Return when ``holds`` last changed before the moment [Unix seconds]; None if it never changes."""
        return self._at(unix_s).changed_at if self._windows else None

    def _at(self, unix_s: float) -> _Known:
        zone = time.timezone, time.altzone, time.tzname
        if zone != self._known.zone or not self._known.begin <= unix_s < self._known.end:
            spans = self._spans(unix_s)

            def holds(moment: float) -> bool:
                return any(start <= moment < end for start, end in spans)

            edges = sorted({edge for span in spans for edge in span})
            past = [edge for edge in edges if unix_s - _PERIOD_S < edge <= unix_s]
            changes = [edge for edge in past if holds(edge) != holds(edge - 1)]
            self._known = _Known(
                past[-1], next(edge for edge in edges if edge > unix_s), holds(unix_s),
                changes[-1] if changes else None, zone,
            )  # fmt: skip
        return self._known

    def _spans(self, unix_s: float) -> list[tuple[float, float]]:
        """Return begin and end of the windows around a moment [Unix seconds], in local time."""
        today = datetime.fromtimestamp(unix_s).replace(hour=0, minute=0, second=0, microsecond=0)
        spans = []
        for ago in range(-8, 10):
            day = today - timedelta(days=ago)
            for window in self._windows:
                if day.weekday() in window.days:
                    start = day + timedelta(minutes=window.start)
                    end = day + timedelta(minutes=window.end)
                    spans.append((_first(start), _last(end)))
        return spans


def _first(local: datetime) -> float:
    """Return when a clock first shows a local time or, if the clock skips it, a later one [Unix seconds]."""
    first, second = local.timestamp(), local.replace(fold=1).timestamp()
    if first <= second:
        return first
    # Skipped: the clock is put forward between these two moments.
    before, after = second, first
    while after - before > 1:
        middle = (before + after) // 2
        if datetime.fromtimestamp(middle) < local:
            before = middle
        else:
            after = middle
    return after


def _last(local: datetime) -> float:
    """Return when a clock last shows a local time [Unix seconds]; a skipped hour counts as if it followed."""
    return max(local.timestamp(), local.replace(fold=1).timestamp())
