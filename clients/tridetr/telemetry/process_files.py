"""Where a process keeps its metric samples, so that one endpoint shows the whole node.

Each process writes memory-mapped files under ``run_dir/metrics`` (prometheus-client's multiprocess mode), named by
role instead of pid: counters go on across restarts, and containers with equal pids cannot collide.
"""

from __future__ import annotations

import os
from pathlib import Path


def use_process_files(folder: Path, role: str) -> None:
    """Send this process's samples to ``folder`` under the name ``role`` (such as ``capture_hall``).

    Must be called before ``tridetr.telemetry.metrics`` is imported: metrics without labels take their storage
    when they are made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    from prometheus_client import values

    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: role)  # type: ignore[no-untyped-call]


def render_all(folder: Path) -> bytes:
    """Return the samples of all processes that write to ``folder``, in Prometheus text format."""
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess

    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return generate_latest(registry)
