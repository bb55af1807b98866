"""Store each process's metric samples in files, so that one endpoint can export those of the whole node.

Each process writes memory-mapped files in ``run_dir/metrics`` (prometheus-client's multiprocess mode), named after its
role instead of its pid: counters continue across restarts, and containers with equal pids do not collide.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tridetr.files import write_bytes

if TYPE_CHECKING:
    from prometheus_client import Metric

_LOOK_NS = 2_000_000_000  # how often a process checks that its files still exist
_DESCRIPTORS = "/proc/self/fd"
_IN_MEMORY = "/memfd:"  # how the kernel calls a file of `metric_samples` in it
_SAMPLES = re.compile(r"\.?(counter|gauge_[a-z]+|histogram|summary)_.+\.db(\.new)?")
_folder: Path | None = None
_identifier = ""
_generation = 0
_look_ns = 0


def use_process_files(folder: Path, role: str) -> None:
    """Store this process's samples in ``folder`` under the name ``role`` (such as ``capture_hall``).

    Call it before ``tridetr.telemetry.metrics`` is imported: metrics without labels open their file when they are
    created.
    """
    global _folder, _identifier
    with contextlib.suppress(OSError):  # as long as it cannot be created, the samples are in memory
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _folder, _identifier = folder.resolve(), role
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    # The latter for `read_families`, in case no descriptor is left then
    from prometheus_client import multiprocess as multiprocess
    from prometheus_client import values

    from tridetr.telemetry.metric_samples import Samples

    setattr(values, "MmapedDict", Samples)  # noqa: B010
    # If the identifier changes, the library continues in files of that name, with the values in them
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: _identifier)  # type: ignore[no-untyped-call]  # untyped


def is_samples(name: str) -> bool:
    """Return whether a file in ``run_dir/metrics`` has a name of the metrics library's, or of one being written."""
    return _SAMPLES.fullmatch(name) is not None


def keep_process_files() -> None:
    """Continue in new files, with the same values, if this process's files were removed or had no space.

    Checks every two seconds.
    """
    global _identifier, _generation, _look_ns
    now_ns = time.monotonic_ns()
    if _folder is None or now_ns < _look_ns:
        return
    _look_ns = now_ns + _LOOK_NS
    end = f"{_identifier}.db"
    start = f"{_folder}/"
    lost: dict[str, Path] = {}
    there: set[str] = set()
    for number in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - a path object for each costs five times as much
        with contextlib.suppress(OSError):  # closed since
            target = os.readlink(f"{_DESCRIPTORS}/{number}").removesuffix(" (deleted)")  # noqa: PTH115
            if target.startswith((start, _IN_MEMORY)) and target.endswith(end):
                name = target.removeprefix(start).removeprefix(_IN_MEMORY)
                if target.startswith(_IN_MEMORY) or not (_folder / name).exists():
                    lost[name.removesuffix(end)] = Path(_DESCRIPTORS, number)
                else:
                    there.add(name.removesuffix(end))
    if not lost:
        return
    following = f"{_identifier.partition('.')[0]}.{_generation + 1}"
    with contextlib.suppress(OSError):  # such as a full disk: retried
        _folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for kind, entry in lost.items():
            write_bytes(_folder / f"{kind}{following}.db", entry.read_bytes())
        for kind in there:  # the library continues in files of the new name only
            (_folder / f"{kind}{end}").rename(_folder / f"{kind}{following}.db")
        _generation += 1
        _identifier = following


def read_families(folder: Path, files: str = "*.db") -> list[Metric]:
    """Return the metric families in files of ``folder``; empty if one of them is damaged or just being created."""
    from prometheus_client.multiprocess import MultiProcessCollector

    try:
        found = sorted(map(str, folder.glob(files)))
        return list(MultiProcessCollector.merge(found)) if found else []  # type: ignore[no-untyped-call]  # untyped
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, struct.error):
        return []


def render_all(folder: Path) -> bytes:
    """Return the samples of all processes that write to ``folder``, in the Prometheus text format."""
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess

    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]  # untyped
    return generate_latest(registry)
