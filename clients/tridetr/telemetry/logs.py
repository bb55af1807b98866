"""Configure logging: one line per record, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from time import monotonic
from typing import Any

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(level: str, form: str, role: str) -> None:
    """Send all log records to stderr.

    Args:
        level: Lowest level of tridetr's own records: debug, info, warning or error. Libraries log from warning.
        form: ``text`` or ``json``.
        role: Name of the process, part of every line, such as ``capture hall``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(role) if form == "json" else TextFormatter(role))
    handler.addFilter(TracebackFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("tridetr").setLevel(level.upper())


def extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields that the caller passed as ``extra``."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class _RoleFormatter(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role


class TextFormatter(_RoleFormatter):
    """Formats a record as ``12:03:04.567 WARNING capture hall: message key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        time.tzset()  # the time zone may be changed while the process runs
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        extras = "".join(f" {name}={value}" for name, value in extra_fields(record).items())
        line = (
            f"{clock}.{int(record.msecs):03d} {record.levelname:<7} {self._role}: "
            f"{record.getMessage()}{extras}"
        )
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(_RoleFormatter):
    """Formats a record as one JSON object in one line."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": round(record.created, 6),
            "level": record.levelname.lower(),
            "role": self._role,
            "logger": record.name,
            "message": record.getMessage(),
            **extra_fields(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


class Limiter:
    """Limits a log line to one per interval and counts the suppressed ones.

    >>> limiter = Limiter(every_s=10.0)
    >>> [limiter.allow(second) for second in (0.0, 1.0, 2.0, 11.0)]
    [0, None, None, 2]
    """

    def __init__(self, every_s: float) -> None:
        """Set the shortest time between two lines [s]."""
        self._every_s = every_s
        self._last_s: float | None = None
        self._kept_back = 0

    def allow(self, now_s: float) -> int | None:
        """Return how many lines were suppressed before this one; None if this one must be suppressed, too."""
        if self._last_s is not None and now_s - self._last_s < self._every_s:
            self._kept_back += 1
            return None
        self._last_s = now_s
        kept_back, self._kept_back = self._kept_back, 0
        return kept_back


class TracebackFilter(logging.Filter):
    """Passes one traceback per minute for each line of code that raises: one client could cause thousands."""

    def __init__(self) -> None:
        super().__init__()
        self._limiters: dict[tuple[str, int], Limiter] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record; count the suppressed ones in the next one's message."""
        trace = record.exc_info[2] if record.exc_info else None
        if trace is None:
            return True
        while trace.tb_next is not None:
            trace = trace.tb_next
        where = trace.tb_frame.f_code.co_filename, trace.tb_lineno
        kept_back = self._limiters.setdefault(where, Limiter(60.0)).allow(monotonic())
        if kept_back:
            record.msg = (
                f"{record.getMessage()} (and {kept_back} more times since it was last logged)"
            )
            record.args = None
        return kept_back is not None
