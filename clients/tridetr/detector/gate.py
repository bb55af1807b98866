"""The motion gate (static-scene skip): in standby, skip inference of frames without motion.

A frame is skipped only if the controller reports standby and the last answer is at most ``detect.motion_gate_s`` old
and contains no object of an alarming class. In all uncertain cases (no controller, an error, a new model, another
frame size) the frame is inferred.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tridetr.config import DetectSection
from tridetr.detector.frames import AnyFrame
from tridetr.detector.motion import MotionDetector, PatchGrid
from tridetr.shm.boards import SentryMode, SentryReader, SentryState
from tridetr.shm.closing import Closing
from tridetr.shm.detections import ResultStamp
from tridetr.shm.frames import FrameLease
from tridetr.telemetry import metrics

_SMALLEST = 16  # pixels per side; smaller frames are always inferred
LOOK_REASONS = ("motion", "interval", "learning", "uncertain")
_UNCERTAIN = 0.5  # a score above this share of the minimum score is inferred again
_LONGEST_UNCERTAIN = 10  # such inferences in a row; what stays uncertain is part of the scene


@dataclass(frozen=True)
class Answer:
    """The last result of the model.

    Attributes:
        stamp: Metadata of the result.
        rows: The detections, ``DETECTION_DTYPE`` [n].
    """

    stamp: ResultStamp
    rows: NDArray[np.void]

    def stamp_for(self, lease: AnyFrame, now_ns: int) -> ResultStamp:
        """Return the metadata of a result that repeats this one for another frame, at the time ``now_ns``."""
        frame = lease.stamp
        return replace(
            self.stamp,
            frame_number=frame.frame_number,
            frame_sequence=lease.sequence,
            capture_monotonic_ns=frame.capture_monotonic_ns,
            capture_unix_ns=frame.capture_unix_ns,
            taken_ns=now_ns,
            published_ns=now_ns,
            trace=frame.trace,
        )


class MotionGate(Closing):
    """Decides for one camera whether a frame must be inferred."""

    def __init__(self, instance: str, camera: str, section: DetectSection) -> None:
        """Start without a stored answer.

        Args:
            instance: Instance name of the node.
            camera: Name of the camera.
            section: Supplies ``motion_gate_s`` (0 = every frame is inferred).
        """
        self._longest_ns = int(section.motion_gate_s * 1e9)
        self._sentry = SentryReader(instance, camera)
        self._size = (0, 0)
        self._grid: PatchGrid | None = None
        self._motion: MotionDetector | None = None
        self._answer: Answer | None = None
        self._watching = False  # whether the motion detector has seen the leased frame
        self._interval = False  # whether the frame is inferred only because the last answer is old
        self._uncertain = 0  # uncertain answers in a row
        self._looks = {
            reason: metrics.MOTION_GATE_LOOKS.labels(camera, reason) for reason in LOOK_REASONS
        }
        self._missed = metrics.MOTION_GATE_MISSED.labels(camera)

    def answer_for(self, lease: FrameLease) -> Answer | None:
        """Return the stored answer if it is valid for a frame; None: run inference."""
        now_ns = time.monotonic_ns()
        self._interval = False
        if not self.is_on or lease.stamp.lossless:
            return None
        motion = self._motion_for(lease.width, lease.height)
        if motion is None or not self._is_standby(now_ns):
            self._interrupt()
            return None
        assert self._grid is not None
        changed = motion.changed(self._grid(lease.planes[: lease.height]))
        self._watching = True
        if changed or motion.learning:
            self._uncertain = 0
        answer, reason = self._answer, ""
        if motion.learning:
            reason = "learning"
        elif changed:
            reason = "motion"
        elif answer is None or 0 < self._uncertain <= _LONGEST_UNCERTAIN:
            reason = "uncertain"
        elif now_ns > answer.stamp.infer_start_ns + self._longest_ns:
            reason = "interval"
            self._interval = True
        if reason:
            self._looks[reason].inc()
            return None
        return answer

    @property
    def is_on(self) -> bool:
        """Whether the configuration allows skipping frames."""
        return self._longest_ns > 0

    def unseen(self) -> None:
        """Record the inference of a frame that this gate has not seen."""
        if self.is_on:
            self._interrupt()

    def inferred(
        self,
        stamp: ResultStamp,
        rows: NDArray[np.void],
        alarming: Collection[int],
        likeness: float = 0.0,
    ) -> None:
        """Store the result of the frame last passed to `answer_for`, unless it contains an alarming class.

        Args:
            stamp: Metadata of the result.
            rows: Its detections, ``DETECTION_DTYPE`` [n].
            alarming: Class ids that can trigger the alarm.
            likeness: The best score of those classes, relative to the minimum score of a detection.
        """
        found = bool(np.isin(rows["class_id"], list(alarming)).any())
        if found and self._interval:
            self._missed.inc()
        if found or not self._watching or self._motion is None:
            self.forget()
            return
        self._motion.looked()
        self._answer = Answer(stamp, rows)
        self._uncertain = self._uncertain + 1 if likeness >= _UNCERTAIN else 0

    def forget(self) -> None:
        """Drop the stored answer, so that the next frame is inferred in any case."""
        self._answer = None

    def close(self) -> None:
        """Release the reader of the sentry state."""
        self._sentry.close()

    def _motion_for(self, width: int, height: int) -> MotionDetector | None:
        """Return the motion detector for frames of this size; None if they are too small."""
        if self._size != (width, height):
            self._size = (width, height)
            self._grid = self._motion = None
            self.forget()
            if min(width, height) >= _SMALLEST:
                self._grid = PatchGrid(width, height)
                self._motion = MotionDetector(self._grid.shape)
        return self._motion

    def _interrupt(self) -> None:
        self._watching = False
        self.forget()
        if self._motion is not None:
            self._motion.interrupted()

    def _is_standby(self, now_ns: int) -> bool:
        snapshot = self._sentry.read()
        return (
            snapshot is not None
            and snapshot.expires_monotonic_ns >= now_ns
            and snapshot.mode is SentryMode.STANDBY
            and snapshot.state is SentryState.STANDBY
        )
