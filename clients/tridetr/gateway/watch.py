"""Watch one camera from its frames to its decisions, for viewers, probes and metrics."""

from __future__ import annotations

import time
from typing import Any

from tridetr.config import Config
from tridetr.errors import ShmError
from tridetr.gateway import facts
from tridetr.gateway.readers import CameraReaders, NewestFrame
from tridetr.gateway.watching import Chain, Decided, Fault, find_fault
from tridetr.served_model import Labels
from tridetr.shm.detections import ResultStamp
from tridetr.telemetry import metrics

_LOOK_S = 0.25  # time for which a verdict is cached
_DAMAGED = Fault("capture", "the camera's shared memory is damaged")


class CameraWatch:
    """Determines whether one camera is watched; use it in one event loop.

    Attributes:
        frame_limit_s: greatest age of the newest frame at which the camera is watched.
        result_limit_s: greatest age of the newest result and decision.
    """

    def __init__(self, config: Config, camera: str, readers: CameraReaders, labels: Labels) -> None:
        self._camera = camera
        self._readers = readers
        self._labels = labels
        self.result_limit_s = config.sentry_for(camera).unknown_s
        # Without a frame there is no result either, whose absence must not be taken for the detector's fault
        self.frame_limit_s = min(config.cameras[camera].timeout_s, self.result_limit_s)
        self._classes = config.alarm_for(camera).classes
        self._unpublished = config.unpublished_classes(camera)
        self._has_demo_model = config.model.file is None and config.triton.url is None
        self._decided = Decided()
        # Sequence, and the monotonic time at which it was first seen here: for recordings, whose times are not current.
        self._first_frame = (0, 0)
        self._first_decided = (0, 0)
        self._fault: Fault | None = _DAMAGED
        self._warnings: list[str] = []
        self._since_ns: int | None = None
        self._looked_at = float("-inf")

    @property
    def watched(self) -> bool:
        """Whether the camera was watched at the last check."""
        return self._fault is None

    def frame_age_s(self, frame: NewestFrame | None, now: int) -> float | None:
        """Return the age of a camera's newest frame in seconds; None without a frame."""
        if frame is None:
            return None
        if self._first_frame[0] != frame.sequence:
            self._first_frame = (frame.sequence, now)
        # Media time is unrelated to the current time: the age then counts from when the frame was first seen here.
        stamp = frame.stamp
        captured = self._first_frame[1] if stamp.lossless else stamp.capture_monotonic_ns
        return facts.age_s(captured, now)

    def look(self) -> dict[str, Any]:
        """Return the header of a `watching` message, at most ``_LOOK_S`` old."""
        if time.monotonic() - self._looked_at >= _LOOK_S:
            self._look()
        fault = self._fault
        return {
            "type": "watching",
            "watching": fault is None,
            "part": fault.part if fault else "",
            "reason": fault.reason if fault else "",
            "since_unix_ms": facts.unix_ms(self._since_ns) if fault and self._since_ns else None,
            "warnings": self._warnings,
        }

    def _look(self) -> None:
        was_watched = self.watched or self._since_ns is None
        try:
            self._fault = self._find()
        except ShmError:
            self._fault = _DAMAGED
        self._looked_at = time.monotonic()
        metrics.WATCHED.labels(self._camera).set(self.watched)
        if self._fault is not None and was_watched:
            self._since_ns = time.time_ns() - round((self._fault.age_s or 0.0) * 1e9)

    def _find(self) -> Fault | None:
        readers, now = self._readers, time.monotonic_ns()
        newest = readers.newest_result()
        status = readers.status.read()
        sentry = readers.sentry.read()
        result = newest[0] if newest else None
        unknown = self._labels.unknown(self._classes)
        self._warnings = [
            *(f"the model does not know the alarm class {name!r}" for name in unknown),
            *(f"detect.classes leaves out the alarm class {name!r}" for name in self._unpublished),
            *self._demo_warning(status.source_kind if status else ""),
        ]
        chain = Chain(
            status,
            self.frame_age_s(readers.newest_frame(), now),
            self._result_age_s(result, now),
            sentry,
            self._decided_age_s(sentry.decided_frame_sequence if sentry else 0, result, now),
            self._classes,
            unknown,
            self._unpublished,
        )
        return find_fault(chain, self.frame_limit_s, self.result_limit_s, now)

    def _result_age_s(self, result: ResultStamp | None, now: int) -> float | None:
        if result is None:
            return None
        self._decided.add(result.frame_sequence, result.capture_monotonic_ns)
        return facts.age_s(
            result.published_ns if result.lossless else result.capture_monotonic_ns, now
        )

    def _decided_age_s(self, sequence: int, result: ResultStamp | None, now: int) -> float | None:
        if sequence == 0 or result is None:
            return None
        if self._first_decided[0] != sequence:
            self._first_decided = (sequence, now)
        captured = None if result.lossless else self._decided.capture_ns(sequence)
        return facts.age_s(self._first_decided[1] if captured is None else captured, now)

    def _demo_warning(self, source_kind: str) -> list[str]:
        if not self._has_demo_model or source_kind in ("", "synthetic"):
            return []
        return [
            "the bundled demonstration model only works with the synthetic demo camera, not with real cameras"
        ]
