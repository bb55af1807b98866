"""Measurements of a soak: each process, the queues, the results."""

from __future__ import annotations

import contextlib
from pathlib import Path

import posix_ipc

from tridetr.shm.detections import DetectionReader
from tridetr.shm.names import CONSUMERS, RingName


def queue_depths(instance: str, cameras: list[str]) -> list[int]:
    """Return the depth of each existing message queue (by name, because /dev/mqueue is not always mounted)."""
    depths = []
    for camera in cameras:
        for kind, consumers in CONSUMERS.items():
            for consumer in consumers:
                with contextlib.suppress(posix_ipc.Error):
                    queue = posix_ipc.MessageQueue(RingName(instance, camera, kind).queue(consumer))
                    depths.append(queue.current_messages)
                    queue.close()
    return depths


def anonymous_mib(pid: int) -> float:
    """Return the private memory of a process, without file pages, which depend on the other processes."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 2**10
    return 0.0


def sizes_of(paths: list[Path]) -> list[int]:
    """Return the size of each file on disk [bytes]; without files that disappear meanwhile."""
    sizes = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_blocks * 512)
    return sizes


class Latency:
    """Reads the new results of one camera."""

    def __init__(self, instance: str, camera: str) -> None:
        self._reader = DetectionReader(instance, camera, None)
        self._after = 0

    def take(self) -> tuple[list[float], list[float]]:
        """Return the age of the frame when the detector takes it, and the time from then until published [ms]."""
        ages, totals = [], []
        while (lease := self._reader.lease_next(self._after)) is not None:
            with lease:
                self._after, stamp = lease.sequence, lease.stamp
                ages.append((stamp.taken_ns - stamp.capture_monotonic_ns) / 1e6)
                totals.append((stamp.published_ns - stamp.taken_ns) / 1e6)
        return ages, totals
