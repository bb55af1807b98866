"""Find the visits in a video file.

A temporary node processes every frame of the file. The times in its event history are then converted to media time.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import av

from tridetr.capture.sources.av import explain, open_video, packets
from tridetr.config import CameraSection, Config
from tridetr.controller.history import HISTORY_LIMIT, HistoryRow, read_history
from tridetr.controller.state_machine import Transition
from tridetr.controller.visits import JOINED
from tridetr.errors import ConfigError, ShmError, SourceError
from tridetr.file_lock import FileLock, FileLockedError
from tridetr.shm import names
from tridetr.shm.instance_lock import run_dir_of
from tridetr.supervisor import orphans
from tridetr.supervisor.runner import Supervisor
from tridetr.supervisor.screen import Display, LogPipe

CAMERA = "recording"
Ending = Literal["left", "lost"]


@dataclass(frozen=True)
class Recording:
    """A video file and the times of its frames.

    Attributes:
        path: absolute path of the file.
        times_s: media time of each frame in seconds, in display order; the first is 0.
    """

    path: Path
    times_s: tuple[float, ...]

    @property
    def duration_s(self) -> float:
        """Media time of the last frame."""
        return self.times_s[-1]

    def time_s(self, frame_number: int) -> float:
        """Return the media time of a frame; numbers beyond the last frame count as the last frame."""
        return self.times_s[min(frame_number, len(self.times_s) - 1)]


@dataclass(frozen=True)
class Joined:
    """Another alarm class that arrived during a visit.

    Attributes:
        class_name: the class.
        at_s: media time of the frame that confirmed it.
        score: score of its best detection in that frame.
        frame_number: number of that frame.
    """

    class_name: str
    at_s: float
    score: float | None
    frame_number: int


@dataclass(frozen=True)
class Visit:
    """One visit, in media time.

    Attributes:
        visit_id: the same ID as in the events of a live camera.
        class_name: the class that opened the visit.
        begin_s: media time of the frame that confirmed it.
        end_s: media time of its end; None if it was still open at the end of the recording.
        ended: ``left`` (the view was seen empty), ``lost`` (the camera could not be observed), None (still open).
        score: score of the best detection in the frame that confirmed it.
        frame_number: number of that frame.
        joined: other alarm classes that arrived during the visit, in that order.
    """

    visit_id: str
    class_name: str
    begin_s: float
    end_s: float | None
    ended: Ending | None
    score: float | None
    frame_number: int
    joined: tuple[Joined, ...] = ()


@dataclass(frozen=True)
class Analysis:
    """The result of analysing a recording.

    Attributes:
        recording: the file.
        visits: the visits, ordered by their begin.
        summary: summary of the run, as ``tridetr up --json`` prints it.
        complete: whether the whole file was read; False after Ctrl-C.
    """

    recording: Recording
    visits: tuple[Visit, ...]
    summary: dict[str, Any]
    complete: bool


def open_recording(path: Path) -> Recording:
    """Read the timestamps of all frames of a file without decoding them.

    Raises:
        SourceError: the file cannot be read, or contains no video.
    """
    if re.match(r"[A-Za-z]+:/", str(path)):  # of "//", a path keeps one
        raise SourceError(
            "a recording is a file: save a part of the stream first, with `ffmpeg -i URL -c copy -t 600 FILE.mkv`"
        )
    path = path.expanduser().absolute()
    if not path.is_file():
        raise SourceError(f"cannot open {path}: no such file. Check the path")
    try:
        str(path).encode()
    except UnicodeEncodeError:  # the configuration is JSON
        raise SourceError(
            f"cannot open {path}: the name of the file or a folder is not UTF-8; rename it"
        ) from None
    container, stream = open_video(f"file:{path}", shown=str(path), options={}, timeout_s=None)
    step_s = float(1 / (stream.average_rate or 25))
    times: list[float] = []
    with container:
        try:
            for packet in packets(container, stream):
                at = packet.pts if packet.pts is not None else packet.dts
                base = packet.time_base
                times.append(
                    len(times) * step_s if at is None or base is None else float(at * base)
                )
        except av.FFmpegError as error:
            if not times:
                raise SourceError(f"cannot read {path}: {explain(error)}") from None
    if not times:
        raise SourceError(f"cannot read {path}: it contains no video frames")
    times.sort()
    return Recording(path, tuple(time_s - times[0] for time_s in times))


@contextlib.contextmanager
def workspace() -> Iterator[tuple[str, Path]]:
    """Yield the name of a new instance and a folder for it, which is removed afterwards.

    The shared memory and folders of earlier analyses that were killed are removed first: no other run uses their names.
    """
    for lock in names.SHM_DIR.glob(f"{names.PREFIX}-a*.lock"):
        if left := re.fullmatch(rf"{names.PREFIX}-(a[0-9a-f]{{12}})\.lock", lock.name):
            with (
                contextlib.suppress(FileLockedError, OSError, ShmError),
                FileLock(lock, None, temporary=True) as held,
            ):
                left_folder = _folder_in(held.note or "", left[1])
                if left_folder is not None:
                    orphans.end(_run_dir(left_folder))
                names.unlink_instance(left[1])
                if left_folder is not None:
                    _remove(left_folder)
    instance = "a" + uuid.uuid4().hex[:12]
    folder = Path(tempfile.gettempdir()).resolve() / _name(instance)
    folder.mkdir(mode=0o700)
    try:
        yield instance, folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove the folder of an analysis, unless it is gone and another user has taken its name."""
    with contextlib.suppress(OSError):
        found = folder.lstat()
        is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if is_own and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            shutil.rmtree(folder, ignore_errors=True)


def _folder_in(note: str, instance: str) -> Path | None:
    """Return the folder of an analysis from the note of its lock; None if it was a node with such a name."""
    run_dir = run_dir_of(note)
    if run_dir is None:
        return None
    folder = run_dir.parent
    return folder if folder.name == _name(instance) and run_dir == _run_dir(folder) else None


def _name(instance: str) -> str:
    return f"{names.PREFIX}-{instance}"


def _run_dir(folder: Path) -> Path:
    return folder / "run"


def recording_config(
    recording: Recording, settings: Config | None, camera: str | None, instance: str, folder: Path
) -> Config:
    """Return the configuration of a node that reads only this file.

    Args:
        recording: the file.
        settings: configuration to take the model, classes, zones and times from; None = the defaults.
        camera: camera of ``settings`` whose own sections apply as well; None = only the common sections.
        instance: name of the node's instance.
        folder: folder for run and state files.

    Raises:
        ConfigError: ``settings`` has no such camera.
    """
    section: dict[str, Any] = {
        "source": f"{recording.path}", "realtime": False, "loop": False,
    }  # fmt: skip
    common: dict[str, Any] = {}
    if settings is not None:
        if camera is not None and camera not in settings.cameras:
            known = ", ".join(settings.cameras)
            raise ConfigError(f"no camera {camera!r} in the configuration: it has {known}")
        common = settings.model_dump(
            include={"device", "model", "triton", "detect", "alarm", "sentry"}
        )
        if camera is not None:
            own = settings.cameras[camera]
            section |= own.model_dump(include={"blind_check", "frozen_s", "mask", "max_pixels"})
            common |= {
                "detect": settings.detect_for(camera).model_dump(),
                "alarm": settings.alarm_for(camera).model_dump(),
                "sentry": settings.sentry_for(camera).model_dump(),
            }
    return Config.model_validate(
        common
        | {
            "instance": instance,
            "cameras": {CAMERA: CameraSection.model_validate(section)},
            "mqtt": {"host": "embedded", "discovery_prefix": None, "outbox_limit": 1_000_000},
            "log": {"level": "warning"},
            "run_dir": _run_dir(folder),
            "state_dir": folder / "state",
        }
    )


def analyse(
    recording: Recording,
    settings: Config | None,
    camera: str | None,
    make_display: Callable[[LogPipe, Callable[[], int]], Display],
) -> Analysis:
    """Run a recording through a complete node and return its visits.

    Args:
        recording: the file.
        settings: see `recording_config`.
        camera: see `recording_config`.
        make_display: returns the progress display; its second argument is a function that returns the number of
            visits found so far.
    """
    with workspace() as (instance, folder):
        config = recording_config(recording, settings, camera, instance, folder)
        rows: list[HistoryRow] = []

        def visits_so_far() -> int:
            # The history drops its oldest rows, so read it while it grows.
            after = rows[-1].seq if rows else 0
            rows.extend(reversed(read_history(config.state_dir, limit=HISTORY_LIMIT, after=after)))
            return sum(_action(row) == Transition.ARRIVED.value for row in rows)

        # Without viewer and broker, which every user of this machine could open
        supervisor = Supervisor(
            config,
            without=("broker", "gateway"),
            make_display=lambda logs: make_display(logs, visits_so_far),
        )
        summary = supervisor.run(None)
        visits_so_far()
    return Analysis(
        recording, tuple(visits_of(rows, recording)), summary, complete=not supervisor.was_stopped
    )


def visits_of(rows: Iterable[HistoryRow], recording: Recording) -> list[Visit]:
    """Pair the begin and end events of a history, oldest first, into visits in media time."""
    visits: dict[str, Visit] = {}
    for row in rows:
        action, details = _action(row), row.details
        visit = visits.get(details.get("visit_id", ""))
        if action == Transition.ARRIVED.value:
            number = int(details["frame_number"])
            visits[details["visit_id"]] = Visit(
                details["visit_id"], details["class"], recording.time_s(number), None, None,
                details["score"], number,
            )  # fmt: skip
        elif visit is None:
            continue
        elif action == JOINED:
            number = int(details["frame_number"])
            one = Joined(details["class"], recording.time_s(number), details["score"], number)
            visits[visit.visit_id] = replace(visit, joined=(*visit.joined, one))
        elif action is not None:
            end_s = min(visit.begin_s + details["duration_s"], recording.duration_s)
            ended: Ending = "left" if action == Transition.LEFT.value else "lost"
            visits[visit.visit_id] = replace(visit, end_s=end_s, ended=ended)
    return list(visits.values())


def _action(row: HistoryRow) -> str | None:
    """Return the action of a visit's event, such as ``arrived``; None for rows of another kind."""
    _, _, action = str(row.details.get("event_id", "")).rpartition(":")
    return action if action in (JOINED, *(known.value for known in Transition)) else None
