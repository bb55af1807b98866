"""``tridetr analyse``: find the visits in a recording."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tridetr.cli.config_option import DEFAULT_CONFIG, ConfigFile
from tridetr.config import load_config
from tridetr.errors import TridetrError

if TYPE_CHECKING:
    from tridetr.analysis import Analysis, Recording, Visit
    from tridetr.supervisor.counters import Counters
    from tridetr.supervisor.screen import LogPipe
    from tridetr.supervisor.timings import CameraTimings


def analyse(
    file: Annotated[Path, typer.Argument(help="The recording: any file that FFmpeg can read.")],
    config_file: ConfigFile = DEFAULT_CONFIG,
    camera: Annotated[
        str | None,
        typer.Option(
            help="Use the settings of this camera (zone, scores, times) instead of the common ones."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table, and no progress bar.")
    ] = False,
) -> None:
    """Print the visits in a recording, decided as for a live camera, in media time.

    Every frame is read, as fast as the model allows; in standby, the model gets `sentry.standby_fps` of them per second
    of the recording, as from a live camera. Model, classes, zones and times are those of the configuration file, or the
    defaults without one. A running node is not disturbed, and nothing is published.
    """
    from tridetr.analysis import CAMERA, open_recording
    from tridetr.analysis import analyse as run
    from tridetr.telemetry.logs import configure_logging

    configure_logging("warning", "text", "analyse")
    asked_for = config_file != DEFAULT_CONFIG or config_file.exists() or camera is not None
    settings = load_config(config_file) if asked_for else None
    recording = open_recording(file)
    console = Console(stderr=True)
    if settings is None or (settings.model.file is None and settings.triton.url is None):
        console.print(
            "warning: the bundled demonstration model only recognises drawn people; "
            "download a model for recordings with `tridetr models pull` and set model.file",
            style="yellow",
            soft_wrap=True,
        )

    def make_display(logs: LogPipe, visits: Callable[[], int]) -> _Progress:
        return _Progress(console, logs, recording, visits, is_shown=not as_json)

    started_s = time.monotonic()
    found = run(recording, settings, camera, make_display)
    elapsed_s = time.monotonic() - started_s
    counted = found.summary["cameras"][CAMERA]
    decided = counted["frames_published"]
    decoded = decided + counted["frames_paced"]
    if as_json:
        typer.echo(json.dumps(_as_json(found, decoded, elapsed_s), indent=2))
    elif decided:
        _print(found, decoded, elapsed_s)
    if not decided:
        raise TridetrError(
            f"no frame of {recording.path} was processed; run `tridetr doctor` to find the cause"
        )


class _Progress:
    """A progress bar over the frames of the recording, below the node's warnings."""

    def __init__(
        self,
        console: Console,
        logs: LogPipe,
        recording: Recording,
        visits: Callable[[], int],
        *,
        is_shown: bool,
    ) -> None:
        self._console, self._logs, self._recording = console, logs, recording
        self._visits = visits
        columns = (
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
            TextColumn("{task.fields[at]}"), TimeRemainingColumn(),
        )  # fmt: skip
        self._bar = Progress(
            *columns,
            console=console,
            transient=True,
            disable=not (is_shown and console.is_terminal),
        )
        self._task = self._bar.add_task("starting the model", total=len(recording.times_s), at="")

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._print_logs()

    def update(self, counters: Counters, timings: dict[str, CameraTimings]) -> None:
        """Print new log lines and update the bar."""
        self._print_logs()
        count = counters.count("tridetr_frames_published_total")
        count += counters.count("tridetr_frames_skipped_total", reason="pacing")
        visits = self._visits()
        if count:
            self._bar.update(
                self._task,
                completed=count,
                description=f"{visits} visit{'' if visits == 1 else 's'}",
                at=f"at {_clock(self._recording.time_s(count))}",
            )

    def _print_logs(self) -> None:
        for line in self._logs.take():
            self._console.print(Text(line), soft_wrap=True, highlight=False)


def _print(found: Analysis, frames: int, elapsed_s: float) -> None:
    recording = found.recording
    table = Table()
    for title in ("visit", "class", "from", "to", "duration", "score", "end"):
        table.add_column(title, justify="left" if title in ("class", "end") else "right")
    some_joined = any(visit.joined for visit in found.visits)
    if some_joined:
        table.add_column("joined by")
    endings = {"left": "left", "lost": "out of sight", None: "still there"}
    for number, visit in enumerate(found.visits, 1):
        end_s = recording.duration_s if visit.end_s is None else visit.end_s
        table.add_row(
            str(number),
            Text(visit.class_name),
            _clock(visit.begin_s),
            _clock(end_s),
            f"{end_s - visit.begin_s:.1f} s",
            "–" if visit.score is None else f"{visit.score:.2f}",
            endings[visit.ended],
            *([Text(_joined_by(visit))] if some_joined else []),
        )
    console = Console()
    if found.visits:
        console.print(table)
    else:
        console.print("no visits")
    console.print(
        f"{frames} frames, {_clock(recording.duration_s)} of video in {elapsed_s:.0f} s with "
        f"{found.summary['model']['name']}"
        + ("" if found.complete else "; stopped before the end of the recording"),
        highlight=False,
    )
    missing = len(recording.times_s) - frames
    if found.complete and missing > 0:
        console.print(
            f"{missing} frames could not be decoded, so visits may be missing", style="yellow"
        )


def _joined_by(visit: Visit) -> str:
    return ", ".join(f"{one.class_name} {_clock(one.at_s)}" for one in visit.joined)


def _as_json(found: Analysis, frames: int, elapsed_s: float) -> dict[str, Any]:
    return {
        "file": str(found.recording.path),
        "frames": len(found.recording.times_s),
        "frames_analysed": frames,
        "duration_s": round(found.recording.duration_s, 3),
        "elapsed_s": round(elapsed_s, 3),
        "complete": found.complete,
        "model": found.summary["model"],
        "visits": [
            dataclasses.asdict(visit)
            | {
                "begin_s": round(visit.begin_s, 3),
                "end_s": None if visit.end_s is None else round(visit.end_s, 3),
                "joined": [
                    dataclasses.asdict(one) | {"at_s": round(one.at_s, 3)} for one in visit.joined
                ],
            }
            for visit in found.visits
        ],
    }


def _clock(seconds: float) -> str:
    """Return media time as ``m:ss.t`` or ``h:mm:ss.t``."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes:02d}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"
    return f"{hours}:{text}" if hours else text
