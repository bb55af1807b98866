"""Where a process keeps its metric samples, so that one endpoint shows the whole node.

Each process writes memory-mapped files under ``run_dir/metrics`` (prometheus-client's multiprocess mode), named by
role instead of pid: counters go on across restarts, and containers with equal pids cannot collide.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_LOOK_NS = 2_000_000_000  # how often a process looks whether its files are still there
_DESCRIPTORS = "/proc/self/fd"
_folder: Path | None = None
_identifier = ""
_generation = 0
_look_ns = 0


def use_process_files(folder: Path, role: str) -> None:
    """Send this process's samples to ``folder`` under the name ``role`` (such as ``capture_hall``).

    Must be called before ``tridetr.telemetry.metrics`` is imported: metrics without labels take their storage
    when they are made.
    """
    global _folder, _identifier
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _folder, _identifier = folder.resolve(), role
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    from prometheus_client import values

    # With another identifier, the library goes on in files of that name and takes their values over.
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: _identifier)  # type: ignore[no-untyped-call]


def keep_process_files() -> None:
    """Go on in new files, with the same values, where this process's files were removed. Looks every two seconds."""
    global _identifier, _generation, _look_ns
    now_ns = time.monotonic_ns()
    if _folder is None or now_ns < _look_ns:
        return
    _look_ns = now_ns + _LOOK_NS
    end = f"{_identifier}.db"
    start = f"{_folder}/"
    lost: list[tuple[Path, str]] = []
    for number in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - a path object for each costs five times as much
        with contextlib.suppress(OSError):  # closed meanwhile
            target = os.readlink(f"{_DESCRIPTORS}/{number}").removesuffix(" (deleted)")  # noqa: PTH115
            if target.startswith(start) and target.endswith(end):
                name = target.removeprefix(start)
                if not (_folder / name).exists():
                    lost.append((Path(_DESCRIPTORS, number), name.removesuffix(end)))
    if not lost:
        return
    following = f"{_identifier.partition('.')[0]}.{_generation + 1}"
    with contextlib.suppress(OSError):  # a full disk, perhaps: tried again
        _folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for entry, kind in lost:
            (_folder / f"{kind}{following}.db").write_bytes(entry.read_bytes())
        _generation += 1
        _identifier = following


def render_all(folder: Path) -> bytes:
    """Return the samples of all processes that write to ``folder``, in Prometheus text format."""
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess

    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return generate_latest(registry)
