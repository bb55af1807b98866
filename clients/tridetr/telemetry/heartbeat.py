"""A process's sign of life: eight bytes in a file of ``run_dir`` that its main loop renews.

The supervisor (and a Kubernetes probe) reads the age: a process that is stopped or hangs is found by its missing
progress, not by asking it. Monotonic nanoseconds, so that a stepped clock changes nothing.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

_NS = struct.Struct("<Q")
_mapped: mmap.mmap | None = None


def _file(run_dir: Path, role: str) -> Path:
    return run_dir / "heartbeats" / role.replace(" ", "_")


def start(run_dir: Path, role: str) -> None:
    """Begin this process's heartbeat."""
    global _mapped
    path = _file(run_dir, role)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _NS.size)
        _mapped = mmap.mmap(descriptor, _NS.size)
    finally:
        os.close(descriptor)
    beat()


def beat() -> None:
    """Renew the heartbeat; costs well under a microsecond, so call it in every turn of the main loop."""
    if _mapped is not None:
        _NS.pack_into(_mapped, 0, time.monotonic_ns())


def age_s(run_dir: Path, role: str) -> float | None:
    """Return the seconds since the last beat of ``role``; None if it never beat."""
    try:
        content = _file(run_dir, role).read_bytes()
    except FileNotFoundError:
        return None
    if len(content) < _NS.size:
        return None
    return (time.monotonic_ns() - int(_NS.unpack_from(content)[0])) / 1e9


def forget(run_dir: Path, role: str) -> None:
    """Remove the heartbeat of a role whose process is gone."""
    _file(run_dir, role).unlink(missing_ok=True)
