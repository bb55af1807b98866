"""Show the live status table of ``tridetr up`` in a terminal."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tridetr.shm.boards import CameraState, SentryState
from tridetr.supervisor.counters import Counters
from tridetr.supervisor.progress import Stage
from tridetr.supervisor.summary import percentiles_ms
from tridetr.supervisor.timings import CameraTimings

_STYLES = {
    "live": "green", "standby": "green", "validation": "yellow", "tracking": "bold red",
    "offline": "red", "frozen": "red", "unknown": "magenta",
}  # fmt: skip


class LogPipe:
    """A bounded queue of the log lines of all processes; a slow terminal never blocks a process."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=1000)

    def add(self, line: bytes) -> None:
        """Add a line of a process's output."""
        self._lines.append(line.decode(errors="replace").rstrip())

    def handler(self, formatter: logging.Formatter) -> logging.Handler:
        """Return a logging handler that adds this process's own records to the queue."""
        return _LineHandler(self._lines, formatter)

    def take(self) -> list[str]:
        """Remove and return all lines in the queue."""
        lines = []
        with contextlib.suppress(IndexError):
            while True:
                lines.append(self._lines.popleft())
        return lines


class _LineHandler(logging.Handler):
    def __init__(self, lines: deque[str], formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


class Display(Protocol):
    """Shows a run while it lasts: log lines and the state of each camera."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

    def update(self, counters: Counters, timings: dict[str, CameraTimings]) -> None:
        """Show the newest numbers; called about once a second."""


class Screen:
    """Shows the log lines of the processes, and below them a table with one row per camera."""

    def __init__(self, console: Console, cameras: Sequence[str], logs: LogPipe, hint: str) -> None:
        self._console = console
        self._cameras = cameras
        self._logs = logs
        self._hint = hint
        self._last: tuple[float, dict[str, tuple[int, int]]] = (time.monotonic(), {})
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.flush_logs()
        self._live.stop()

    def flush_logs(self) -> None:
        """Print the queued log lines above the table."""
        for line in self._logs.take():
            self._console.print(Text(line), soft_wrap=True, highlight=False)

    def update(self, counters: Counters, timings: dict[str, CameraTimings]) -> None:
        """Draw the table again."""
        self.flush_logs()
        now = time.monotonic()
        then, before = self._last
        counts = {
            name: (
                counters.count("tridetr_frames_published_total", camera=name),
                counters.count("tridetr_frames_inferred_total", camera=name),
            )
            for name in self._cameras
        }
        self._last = (now, counts)
        elapsed_s = max(now - then, 1e-6)
        # No lines between the columns, so that the table fits into 80 characters
        table = Table(caption=self._hint, caption_justify="left", box=None, padding=(0, 1, 0, 0))
        for title in ("camera", "source", "sentry"):
            table.add_column(title, no_wrap=True)
        for title in ("fps", "inf/s", "age ms", "infer ms", "total ms", "found", "events"):
            table.add_column(title, justify="right")
        for name in self._cameras:
            published, inferred = counts[name]
            old_published, old_inferred = before.get(name, (published, inferred))
            sampled = timings[name]
            table.add_row(
                name,
                _stalled(counters, name)
                or _state(CameraState, counters.count("tridetr_camera_state", camera=name)),
                _state(SentryState, counters.count("tridetr_sentry_state", camera=name)),
                f"{(published - old_published) / elapsed_s:.1f}",
                f"{(inferred - old_inferred) / elapsed_s:.1f}",
                *(
                    _number(percentiles_ms(values)["p50"])
                    for values in (sampled.frame_age_ms, sampled.infer_ms, sampled.total_ms)
                ),
                str(counters.count("tridetr_detections_total", camera=name)),
                str(counters.count("tridetr_events_published_total", camera=name)),
            )
        self._live.update(table, refresh=True)


def _stalled(counters: Counters, camera: str) -> Text | None:
    """Return what a stalled camera is missing, such as "no results"; None if it is not stalled."""
    for stage in Stage:
        if counters.total("tridetr_stalled", camera=camera, stage=stage.value):
            return Text(f"no {stage.value}", style="bold red")
    return None


def _state(states: type[IntEnum], value: int) -> Text:
    name = states(value).name.lower() if value in set(states) else "?"
    return Text(name, style=_STYLES.get(name, ""))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
