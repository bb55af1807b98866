"""Sample the timings of a camera from the results in its detection ring."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from tridetr.errors import ShmError
from tridetr.shm.detections import DetectionReader, ResultStamp

KEPT = 10_000  # newest results, of which percentiles are computed


def _kept() -> deque[float]:
    return deque(maxlen=KEPT)


@dataclass
class CameraTimings:
    """Durations of the newest results [ms].

    Attributes:
        frame_age_ms: From capture until the detector takes the frame; without lossless files, which run in media
            time.
        infer_ms: From the request to the server until its answer.
        total_ms: From when the detector takes the frame until the result is published.
    """

    frame_age_ms: deque[float] = field(default_factory=_kept)
    infer_ms: deque[float] = field(default_factory=_kept)
    total_ms: deque[float] = field(default_factory=_kept)

    def add(self, stamp: ResultStamp) -> None:
        """Add one result."""
        if not stamp.lossless:
            self.frame_age_ms.append((stamp.taken_ns - stamp.capture_monotonic_ns) / 1e6)
        if stamp.repeated:
            return  # repeats an earlier result, without inference
        self.infer_ms.append((stamp.infer_end_ns - stamp.infer_start_ns) / 1e6)
        self.total_ms.append((stamp.published_ns - stamp.taken_ns) / 1e6)


class TimingsSampler:
    """Reads the new results in the detection ring of one camera by polling, without a wake-up queue."""

    def __init__(self, instance: str, camera: str) -> None:
        self.timings = CameraTimings()
        self._reader = DetectionReader(instance, camera, None)
        self._after = 0

    def poll(self) -> None:
        """Add the results in the ring that are new since the last call."""
        with suppress(ShmError):  # tried again
            while (lease := self._reader.lease_next(self._after)) is not None:
                with lease:
                    self._after = lease.sequence
                    self.timings.add(lease.stamp)

    def look_again(self) -> None:
        """Reopen the ring if it was replaced; call it about once a second."""
        self._reader.forget_if_removed()

    def close(self) -> None:
        """Unmap the ring."""
        self._reader.close()
