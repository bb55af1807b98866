"""Frame accounting and metrics of one camera in the detector."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tridetr.shm.detections import ResultStamp
from tridetr.telemetry import metrics

ERROR_REASONS = ("region", "unavailable", "refused", "shared_memory", "slow", "damaged")


class FrameAccount:
    """Counts skipped frames from the gaps between the sequences of inferred frames. Pure."""

    def __init__(self, last: int) -> None:
        """Start counting after a frame.

        Args:
            last: Sequence of the last frame with a result; 0 = none.
        """
        self._last = last
        self._failed = 0  # frames since then
        self._newest_failed = 0

    def failed(self, sequence: int) -> None:
        """Record a failed inference; the frame may be tried again."""
        if sequence < self._newest_failed:  # the ring was recreated
            self._failed = 0
        self._failed += sequence != self._newest_failed
        self._newest_failed = sequence

    def inferred(self, sequence: int) -> tuple[int, int]:
        """Record a result.

        Returns:
            The number of frames since the last result that were superseded by newer ones, and the number of frames
            that were given up after errors.
        """
        # The ring was recreated, or a restarted detector repeats a frame.
        if sequence <= self._last:
            superseded = errors = 0
        else:
            gap = sequence - self._last - 1
            errors = min(gap, self._failed - (self._newest_failed == sequence))
            superseded = gap - errors
        self._last = sequence
        self._failed = self._newest_failed = 0
        return superseded, errors


class CameraMetrics:
    """Updates the Prometheus metrics of one camera."""

    def __init__(self, camera: str) -> None:
        self._camera = camera
        self._inferred = metrics.FRAMES_INFERRED.labels(camera)
        self._superseded = metrics.FRAMES_SKIPPED.labels(camera, "superseded")
        self._given_up = metrics.FRAMES_SKIPPED.labels(camera, "error")
        self._unchanged = metrics.FRAMES_SKIPPED.labels(camera, "unchanged")
        self._age = metrics.FRAME_AGE_SECONDS.labels(camera)
        self._inference = metrics.INFERENCE_SECONDS.labels(camera)
        self._total = metrics.TOTAL_SECONDS.labels(camera)
        self._last_result = metrics.LAST_RESULT.labels(camera)
        self._blocked = metrics.DETECTOR_BLOCKED.labels(camera)
        self._blocked.set(0)
        self.boxes_invalid = metrics.BOXES_INVALID.labels(camera)
        self._is_blocked = False
        self._names: dict[int, str] = {}
        for reason in ERROR_REASONS:  # start at 0, so that `increase()` sees the first error
            metrics.INFERENCE_ERRORS.labels(camera, reason)

    def name_classes(self, classes: Mapping[str, int]) -> None:
        """Set the class names of the served model, for the metrics' labels."""
        self._names = {number: name for name, number in classes.items()}

    def blocked(self, blocked: bool) -> None:
        """Record whether the camera waits for a server that is unavailable, failing or slow."""
        if blocked is not self._is_blocked:
            self._is_blocked = blocked
            self._blocked.set(blocked)

    def error(self, reason: str) -> None:
        """Count a failed inference."""
        metrics.INFERENCE_ERRORS.labels(self._camera, reason).inc()

    def skipped(self, superseded: int, errors: int) -> None:
        """Count frames without a result."""
        if superseded:
            self._superseded.inc(superseded)
        if errors:
            self._given_up.inc(errors)

    def repeated(self, stamp: ResultStamp) -> None:
        """Count an unchanged frame, which got the previous result without inference."""
        self._unchanged.inc()
        self._last_result.set(time.time())
        self._age.observe((stamp.taken_ns - stamp.capture_monotonic_ns) / 1e9)

    def published(self, stamp: ResultStamp, detections: NDArray[np.void]) -> None:
        """Count and measure a published result."""
        self._inferred.inc()
        self._last_result.set(time.time())
        if not stamp.lossless:  # its timestamps are media time, not this machine's clock
            self._age.observe((stamp.taken_ns - stamp.capture_monotonic_ns) / 1e9)
        self._inference.observe((stamp.infer_end_ns - stamp.infer_start_ns) / 1e9)
        self._total.observe((stamp.published_ns - stamp.taken_ns) / 1e9)
        numbers, counts = np.unique(detections["class_id"], return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            name = self._names.get(number, str(number))
            metrics.DETECTIONS.labels(self._camera, name).inc(count)
