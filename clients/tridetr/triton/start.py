"""Decide when a start of the server has failed: after a long time, or after half a minute without progress."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

TIMEOUT_S = 180.0  # enough to compile a large model on a small machine
STALLED_S = 30.0
_LOOK_EVERY_S = 1.0
# A server that only waits uses some CPU time, too, to answer our requests. More than this between samples is progress.
_WORKS_CPU_S = 0.2
_READS_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """The resources that a starting server has used so far.

    Attributes:
        cpu_s: CPU time of each of its processes in seconds, by process ID.
        log_lines: number of lines that it logged.
        read_bytes: bytes that its processes read from disk.
    """

    cpu_s: Mapping[int, float]
    log_lines: int
    read_bytes: int


def take_sample(pid: int, log_lines: int) -> Sample:
    """Measure the server ``pid`` and the processes that it started."""
    cpu_s: dict[int, float] = {}
    read_bytes = 0
    with contextlib.suppress(psutil.Error):
        server = psutil.Process(pid)
        for process in (server, *server.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu_s[process.pid] = times.user + times.system
                read_bytes += process.io_counters().read_bytes
    return Sample(cpu_s, log_lines, read_bytes)


class StartProgress:
    """Monitors one start, from samples and times that the caller passes in; has no clock of its own."""

    def __init__(self, first: Sample, now_s: float, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._began_s = self._moved_s = self._looked_s = now_s
        self._last = first

    def too_long(self, sample: Callable[[], Sample], now_s: float) -> str | None:
        """Return why the start has failed; None while it can still succeed.

        Args:
            sample: takes a sample; called at most once per second.
            now_s: monotonic time in seconds.
        """
        if now_s - self._began_s >= self._timeout_s:
            return f"is not ready after {self._timeout_s:.0f} s"
        if now_s - self._looked_s < _LOOK_EVERY_S:
            return None
        self._looked_s = now_s
        latest = sample()
        if _moved(self._last, latest):
            self._last, self._moved_s = latest, now_s
        if now_s - self._moved_s >= STALLED_S:
            return f"is not ready and has made no progress for {STALLED_S:.0f} s"
        return None


def _moved(before: Sample, now: Sample) -> bool:
    if before.cpu_s.keys() != now.cpu_s.keys() or before.log_lines != now.log_lines:
        return True
    return (
        sum(now.cpu_s.values()) - sum(before.cpu_s.values()) >= _WORKS_CPU_S
        or now.read_bytes - before.read_bytes >= _READS_BYTES
    )
