"""Heartbeats: sixteen bytes in a file in ``run_dir`` that a process's main loop renews.

The supervisor (and a Kubernetes probe) reads their age, and so finds a process that is stopped or hangs without asking
it. The time is monotonic, so that a clock step has no effect.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from tridetr.files import give_access_back
from tridetr.telemetry.process_files import keep_process_files

_BEAT = struct.Struct("<QQ")  # time of the last beat (CLOCK_MONOTONIC, ns), number of beats
_LOOK_NS = 1_000_000_000  # how often a process checks that its file still exists
_mapped: mmap.mmap | None = None
_path: Path | None = None
_beats = 0
_look_ns = 0
_relayed: dict[Path, int] = {}  # by file: time of the last beat for another process [ns]


def _file(run_dir: Path, role: str) -> Path:
    return run_dir / "heartbeats" / role.replace(" ", "_")


def is_heartbeat(path: Path) -> bool:
    """Return whether a file has the size of a heartbeat, or of one being created."""
    return path.stat().st_size in (0, _BEAT.size)


def supervisor_of(process: str) -> str:
    """Return the heartbeat role of the supervisor of ``process`` (empty: of the whole node)."""
    return f"supervisor of {process}" if process else "supervisor"


def progress_of(process: str) -> str:
    """Return the role of the heartbeat that is renewed while no camera's frames are stuck at ``process``."""
    return f"progress of {process}"


def start(run_dir: Path, role: str) -> None:
    """Start this process's heartbeat under the name ``role``.

    While the file cannot be written (a full disk, a read-only file system), there is none; each second tries again.
    """
    global _mapped, _path, _beats, _look_ns
    _path = _file(run_dir, role)
    _mapped = None
    _beats = _look_ns = 0
    beat()


def _map(path: Path) -> mmap.mmap:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _BEAT.size)
        return mmap.mmap(descriptor, _BEAT.size)
    finally:
        os.close(descriptor)


def beat() -> None:
    """Renew the heartbeat; takes about a microsecond, so call it in every iteration of the main loop.

    Recreates the file if it was removed, and the process's metric files likewise.
    """
    global _beats, _mapped, _look_ns
    if _path is None:
        return
    now_ns = time.monotonic_ns()
    if now_ns >= _look_ns:
        _look_ns = now_ns + _LOOK_NS
        with contextlib.suppress(OSError):  # such as a full disk or a read-only folder: retried
            if _mapped is None or not _is_whole(_path):
                _mapped = _map(_path)
        with contextlib.suppress(OSError):
            keep_process_files()
    _beats += 1
    if _mapped is not None:
        _BEAT.pack_into(_mapped, 0, now_ns, _beats)


def _is_whole(path: Path) -> bool:
    """Return whether the file exists, and not only its name, as on a full disk."""
    try:
        return path.stat().st_size == _BEAT.size
    except FileNotFoundError:
        return False


def beat_for(run_dir: Path, role: str) -> None:
    """Renew the heartbeat of a process that writes none itself; this process can read it even if it raises.

    Raises:
        OSError: It cannot be written.
    """
    path = _file(run_dir, role)
    now_ns = _relayed[path] = time.monotonic_ns()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    give_access_back(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, _BEAT.pack(now_ns, 2), 0)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Pulse:
    """A heartbeat as it was read.

    Attributes:
        age_s: Time since the last beat [s].
        starting: Whether there was only the first beat, so that the main loop has not been reached yet.
    """

    age_s: float
    starting: bool


def read(run_dir: Path, role: str) -> Pulse | None:
    """Return the heartbeat of ``role``; None if there is none.

    Raises:
        OSError: The file cannot be read at the moment; the process may be running.
    """
    path = _file(run_dir, role)
    if (relayed_ns := _relayed.get(path)) is not None:
        return Pulse((time.monotonic_ns() - relayed_ns) / 1e9, starting=False)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except PermissionError:
        if not give_access_back(path):
            raise
        content = path.read_bytes()
    if len(content) < _BEAT.size:
        return None
    last_ns, beats = _BEAT.unpack_from(content)
    return Pulse((time.monotonic_ns() - last_ns) / 1e9, beats <= 1)


def forget(run_dir: Path, role: str) -> None:
    """Remove the heartbeat of a role whose process has exited."""
    path = _file(run_dir, role)
    _relayed.pop(path, None)
    path.unlink(missing_ok=True)


def beating(work: Callable[[], None]) -> None:
    """Run ``work``, which may take seconds, in a thread while the heartbeat goes on; its exceptions are raised."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        while not wait([future], timeout=0.5).done:
            beat()
        future.result()
