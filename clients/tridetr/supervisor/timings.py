"""Timings of a camera, sampled from the results in its detection ring."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from tridetr.errors import ShmError
from tridetr.shm.detections import DetectionReader, ResultStamp

KEPT = 10_000  # the newest results that percentiles are taken over


def _kept() -> deque[float]:
    return deque(maxlen=KEPT)


@dataclass
class CameraTimings:
    """Milliseconds of the last results.

    Attributes:
        frame_age_ms: capture to taken by the detector; not for lossless files, whose clock is the media's.
        infer_ms: inside the model: request to answer.
        total_ms: taken by the detector to published.
    """

    frame_age_ms: deque[float] = field(default_factory=_kept)
    infer_ms: deque[float] = field(default_factory=_kept)
    total_ms: deque[float] = field(default_factory=_kept)

    def add(self, stamp: ResultStamp) -> None:
        """Take in one result."""
        if not stamp.lossless:
            self.frame_age_ms.append((stamp.taken_ns - stamp.capture_monotonic_ns) / 1e6)
        if stamp.repeated:
            return  # nothing was inferred for it
        self.infer_ms.append((stamp.infer_end_ns - stamp.infer_start_ns) / 1e6)
        self.total_ms.append((stamp.published_ns - stamp.taken_ns) / 1e6)


class TimingsSampler:
    """Reads what is new in the detection ring of one camera, without a wake-up queue of its own."""

    def __init__(self, instance: str, camera: str) -> None:
        self.timings = CameraTimings()
        self._reader = DetectionReader(instance, camera, None)
        self._after = 0

    def poll(self) -> None:
        """Take in the results that are still in the ring and were not seen yet."""
        with suppress(ShmError):  # tried again
            while (lease := self._reader.lease_next(self._after)) is not None:
                with lease:
                    self._after = lease.sequence
                    self.timings.add(lease.stamp)

    def look_again(self) -> None:
        """Find the ring again if it was removed; call it about once a second."""
        self._reader.forget_if_removed()

    def close(self) -> None:
        """Unmap the ring."""
        self._reader.close()
