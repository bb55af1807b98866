"""CPU, memory and latency of processes, for the benchmarks that compare nodes with other programs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil

from common import role_of, summary

FIRST_RESULTS_S = 180.0
Times = list[tuple[float, float]]  # when a frame was due, when it was decided on


class Usage:
    """Measures CPU and memory of processes and their children, without brokers."""

    def __init__(self, roots: list[psutil.Process]) -> None:
        self._roots = roots
        self._roles: dict[int, str | None] = {}
        self._before, self._began = self._cpu(), time.monotonic()

    def _all(self) -> Iterator[tuple[psutil.Process, str | None]]:
        for root in self._roots:
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    if (role := role_of(process)) != "broker":
                        yield process, role

    def _cpu(self) -> dict[int, float]:
        used = {}
        for process, role in self._all():
            used[process.pid] = sum(process.cpu_times()[:2])
            self._roles[process.pid] = role
        return used

    def figures(self) -> dict[str, Any]:
        """Return the CPU since the start in per cent of one core, and the current memory in MiB."""
        took = time.monotonic() - self._began
        parts = {pid: now - self._before.get(pid, 0.0) for pid, now in self._cpu().items()}
        used = sum(parts.values())
        by_role: dict[str, float] = {}
        for pid, part in parts.items():
            if role := self._roles[pid]:
                role = role.partition(" ")[0]
                by_role[role] = round(by_role.get(role, 0.0) + 100 * part / took, 2)
        memory = sum(process.memory_full_info().pss for process, _ in self._all())
        return {
            "cpu_percent": round(100 * used / took, 1),
            "memory_mib": round(memory / 2**20),
            "seconds": round(took, 1),
            "cpu_percent_by_role": by_role,
        }


def figures_of(usage: Usage, times: Times, cameras: int) -> dict[str, Any]:
    """Summarise a run."""
    found: dict[str, Any] = usage.figures()
    found["cpu_percent_per_camera"] = round(found["cpu_percent"] / cameras, 1)
    found["results_per_second_and_camera"] = round(len(times) / found["seconds"] / cameras, 2)
    if times:
        found["latency_ms"] = summary([(done - due) * 1e3 for due, done in times], 1)
    return found


def middle(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of the runs that did not fail, or the failure."""
    good = [row for row in rows if "failed" not in row]
    if not good:
        return rows[0]
    found: dict[str, Any] = {}
    for key, value in good[0].items():
        if isinstance(value, dict):
            found[key] = middle([row[key] for row in good if key in row])
        else:
            found[key] = round(float(np.median([row[key] for row in good])), 3)
    return found


def measured(
    roots: list[psutil.Process], cameras: int, seconds: float, take: Callable[[], Times]
) -> dict[str, Any]:
    """Measure running processes, from their first results on."""
    deadline = time.monotonic() + FIRST_RESULTS_S
    seen = 0
    while seen < 2 * cameras:  # not each camera's, but about
        seen += len(take())
        if time.monotonic() > deadline or not all(root.is_running() for root in roots):
            raise RuntimeError("no results")
        time.sleep(0.2)
    time.sleep(5 + 2 * cameras)  # until the gate has learnt the noise, and files are in the cache
    take()
    usage, times = Usage(roots), []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.1)
        times += take()
    return figures_of(usage, times, cameras)
