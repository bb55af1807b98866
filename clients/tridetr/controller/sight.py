"""Read one camera's inputs: its results, each exactly once, and the status that its capture process reports."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tridetr.config import AlarmSection, Config
from tridetr.controller.payloads import Box, FrameFacts
from tridetr.controller.zones import AlarmFilter, class_ids_of
from tridetr.errors import ShmError
from tridetr.served_model import ServedModelReader
from tridetr.shm.boards import BlindReason, CameraState, CameraStatus, StatusReader
from tridetr.shm.detections import DetectionReader, ResultStamp
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.controller")

CAPTURE_DEAD_S = 5.0
# Results of a camera that has just stopped may still arrive within this time.
LATE_RESULTS_S = 1.0
# A camera that is blind for these reasons shows something: a person in its pictures counts, an empty picture does not
_SHOWS_A_VIEW = (BlindReason.TURNED, BlindReason.BLURRED)


@dataclass(frozen=True, slots=True)
class Sighting:
    """One result: its metadata, and a copy of its detections (structured array [K])."""

    stamp: ResultStamp
    detections: NDArray[np.void]


class ResultSource:
    """Reads each result of a camera once, in order."""

    def __init__(self, instance: str, camera: str) -> None:
        self._camera = camera
        self.reader = DetectionReader(instance, camera, "controller")
        self._after = 0
        metrics.RESULTS_MISSED.labels(camera)  # at 0, so that the first one is an increase
        newest = self.reader.lease_newest()
        # Results up to this one were published before this process started.
        self._old_until = newest.sequence if newest else 0
        if newest:
            newest.release()

    def fileno(self) -> int:
        """Return the file descriptor that becomes readable when there is a new result."""
        assert self.reader.wakeup is not None
        return self.reader.wakeup.fileno()

    def drain(self) -> None:
        """Clear the wake-up."""
        assert self.reader.wakeup is not None
        self.reader.wakeup.drain()

    def next(self) -> tuple[Sighting, bool] | None:
        """Return the next result and whether it was published before this process started; None if there is none."""
        while (lease := self.reader.lease_next(self._after)) is not None:
            with lease:
                if self._after and lease.sequence > self._after + 1:
                    metrics.RESULTS_MISSED.labels(self._camera).inc(
                        lease.sequence - self._after - 1
                    )
                self._after = lease.sequence
                try:
                    sighting = Sighting(lease.stamp, lease.detections.copy())
                except ShmError as error:
                    logger.warning(
                        "skipped a damaged result: %s", error, extra={"camera": self._camera}
                    )
                    continue
            return sighting, self._after <= self._old_until
        return None

    def look_again(self) -> None:
        """Close a ring whose file was removed, so that its successor is found; call it after a pause in results."""
        if self.reader.forget_if_removed():
            self._after = self._old_until = 0

    def close(self) -> None:
        self.reader.close()


class CameraWatch:
    """The camera status that capture reports; read by polling."""

    def __init__(self, instance: str, camera: str) -> None:
        self._reader = StatusReader(instance, camera)
        self.status: CameraStatus | None = None
        self._was_blind = False  # whether the last pictures did not show the scene
        self._doubtful_until_ns = 0  # also after a restart of capture

    def poll(self) -> None:
        """Read the status board; a damaged one counts as missing."""
        try:
            self.status = self._reader.read()
        except ShmError:
            self.status = None
        if self.status is not None:
            if self.status.state in (CameraState.FROZEN, CameraState.BLIND):
                self._was_blind = True
            elif self.status.state is CameraState.LIVE:
                self._was_blind = False
            self._doubtful_until_ns = max(
                self._doubtful_until_ns, self.status.doubtful_until_monotonic_ns
            )

    @property
    def capture_alive(self) -> bool:
        """Whether the board was written within the last ``CAPTURE_DEAD_S``."""
        if self.status is None:
            return False
        age_ns = time.monotonic_ns() - self.status.heartbeat_monotonic_ns
        return age_ns < CAPTURE_DEAD_S * 1e9

    @property
    def is_blind(self) -> bool:
        """Whether the camera is known to be blind."""
        return self.status is not None and self.status.state is CameraState.BLIND

    def is_doubtful(self, capture_ns: int) -> bool:
        """Return whether a picture may not show the scene, so that an empty one proves nothing.

        Args:
            capture_ns: Its capture time, because the camera may see again when its result comes (monotonic).
        """
        return self.is_blind or capture_ns <= self._doubtful_until_ns

    def is_down(self, silent_s: float) -> bool:
        """Return whether the camera itself explains ``silent_s`` seconds without a result."""
        if self.status is None or self.status.state in (CameraState.STARTING, CameraState.LIVE):
            return False
        if self.status.state in (CameraState.OFFLINE, CameraState.ENDED):
            return self._was_blind or silent_s >= LATE_RESULTS_S
        # Results of a camera that is frozen, covered or dazzled do not show the scene
        return not (self.is_blind and self.status.blind_reason in _SHOWS_A_VIEW)

    def describe(self) -> tuple[str, str, str]:
        """Return state, kind of source and message for display."""
        if self.status is None:
            return "unknown", "", "capture has not started"
        if not self.capture_alive and self.status.state is not CameraState.ENDED:
            return "offline", self.status.source_kind, "the capture process is not running"
        return self.status.state.name.lower(), self.status.source_kind, self.status.message

    def close(self) -> None:
        self._reader.close()


class Judge:
    """Filters detections by a camera's ``alarm`` settings, with the classes of the served model.

    Attributes:
        unknown: alarm classes that the model does not know.
        unpublished: alarm classes that `detect.classes` leaves out.
        visible: the other alarm classes, of which an object in view is detected.
    """

    def __init__(self, config: Config, camera: str, models: ServedModelReader) -> None:
        self._camera = camera
        self._keys: AlarmSection = config.alarm_for(camera)
        score = self._keys.min_score
        if score is None:
            score = config.detect_for(camera).min_score
        self._min_score = score or 0.0  # 0: everything that the detector publishes counts
        self._models = models
        self._classes: dict[str, int] = {}
        self._is_served = False
        self._names: dict[int, str] = {}
        self._filter = AlarmFilter(frozenset())
        self.unknown: list[str] = []
        self.unpublished = config.unpublished_classes(camera)
        self.visible = frozenset(self._keys.classes).difference(self.unpublished)
        if self.unpublished:
            logger.warning(
                "alarm.classes: %s not in detect.classes, so never alarms. Add it to detect.classes",
                ", ".join(map(repr, self.unpublished)),
                extra={"camera": camera},
            )
        self.refresh()

    def refresh(self) -> None:
        """Load the classes of the served model if they have changed."""
        classes = self._models.classes()
        is_served = self._models.read() is not None  # until then, its classes are not known
        if (classes, is_served) == (self._classes, self._is_served):
            return
        self._classes, self._is_served = classes, is_served
        self._names = {number: name for name, number in classes.items()}
        self.unknown = [name for name in self._keys.classes if is_served and name not in classes]
        self.visible = frozenset(self._keys.classes).difference(self.unknown, self.unpublished)
        self._warn_of_unknown(self.unknown)
        self._filter = AlarmFilter(
            class_ids_of(self._keys.classes, classes),
            self._min_score,
            self._keys.min_area,
            self._keys.zone,
        )

    @property
    def unseen(self) -> frozenset[str]:
        """Alarm classes that cannot be seen."""
        return frozenset(self._keys.classes) - self.visible

    def can_show_empty(self, visit_classes: Collection[str]) -> bool:
        """Return whether a result without boxes shows that the view is empty.

        Args:
            visit_classes: classes seen in the open visit; empty: no visit is open.
        """
        return self.visible.issuperset(visit_classes) if visit_classes else bool(self.visible)

    def judge(self, sighting: Sighting) -> FrameFacts:
        """Return the facts of the frame, with the boxes that pass the alarm filter."""
        stamp, detections = sighting.stamp, sighting.detections
        found: list[Box] = []
        if len(detections):  # most frames are empty
            self.refresh()
            chosen = detections[self._filter.select(detections, stamp.width, stamp.height)]
            found = sorted((self._box(row) for row in chosen), key=lambda box: -box.score)
        return FrameFacts(
            stamp.frame_number,
            stamp.frame_sequence,
            stamp.capture_unix_ns,
            stamp.width,
            stamp.height,
            f"{stamp.model_name}:{stamp.model_version}",
            tuple(found),
        )

    def _box(self, row: np.void) -> Box:
        x1, y1, x2, y2, score = (float(row[name]) for name in ("x1", "y1", "x2", "y2", "score"))
        number = int(row["class_id"])
        name = self._names.get(number, str(number))
        return Box(name, round(score, 4), (round(x1, 1), round(y1, 1), round(x2, 1), round(y2, 1)))

    def _warn_of_unknown(self, unknown: Collection[str]) -> None:
        if unknown:
            logger.warning(
                "alarm.classes: the model does not know %s, which can never alarm; it knows %s",
                ", ".join(map(repr, unknown)),
                ", ".join(list(self._classes)[:10]) + (" …" if len(self._classes) > 10 else ""),
                extra={"camera": self._camera},
            )
