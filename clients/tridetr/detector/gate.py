"""The motion gate (static-scene skip): in standby, a picture without motion is not inferred again.

Only where nothing can be lost by it: the controller reports standby, the last answer shows nothing of a class that
alarms, and it is not older than ``detect.motion_gate_s``. Whatever is unknown (no controller, an error, a new model,
another size) means: infer.
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

_SMALLEST = 16  # pixels a side; smaller pictures are always inferred
LOOK_REASONS = ("motion", "interval", "learning", "uncertain")
_UNCERTAIN = 0.5  # a score above this share of the least one that counts deserves another look
_LONGEST_UNCERTAIN = 10  # looks in a row; what stays uncertain is part of the scene


@dataclass(frozen=True)
class Answer:
    """What the model reported last.

    Attributes:
        stamp: Of the result.
        rows: Its detections, ``DETECTION_DTYPE`` [n].
    """

    stamp: ResultStamp
    rows: NDArray[np.void]

    def stamp_for(self, lease: AnyFrame, now_ns: int) -> ResultStamp:
        """Return the stamp of a result that repeats this one for another frame, taken at this moment."""
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
    """Decides for one camera whether the model has to look at a frame."""

    def __init__(self, instance: str, camera: str, section: DetectSection) -> None:
        """Begin without a memory.

        Args:
            instance: Instance of tridetr.
            camera: Name of the camera.
            section: Its key ``motion_gate_s`` (0: every frame is inferred).
        """
        self._longest_ns = int(section.motion_gate_s * 1e9)
        self._sentry = SentryReader(instance, camera)
        self._size = (0, 0)
        self._grid: PatchGrid | None = None
        self._motion: MotionDetector | None = None
        self._answer: Answer | None = None
        self._watching = False  # whether the motion detector has seen the frame that is leased now
        self._interval = False  # whether the model looks only because the last answer is old
        self._uncertain = 0  # uncertain answers in a row
        self._looks = {
            reason: metrics.MOTION_GATE_LOOKS.labels(camera, reason) for reason in LOOK_REASONS
        }
        self._missed = metrics.MOTION_GATE_MISSED.labels(camera)

    def answer_for(self, lease: FrameLease) -> Answer | None:
        """Return the answer that holds for a frame too; None: the model has to look."""
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
        """Whether frames may be spared at all."""
        return self._longest_ns > 0

    def unseen(self) -> None:
        """Note that the model looks at a frame that this gate has not seen."""
        if self.is_on:
            self._interrupt()

    def inferred(
        self,
        stamp: ResultStamp,
        rows: NDArray[np.void],
        alarming: Collection[int],
        likeness: float = 0.0,
    ) -> None:
        """Remember the answer to the frame that was asked about last, unless it shows what alarms.

        Args:
            stamp: Of its result.
            rows: Its detections.
            alarming: Class ids that can raise the alarm.
            likeness: The best score of those classes, as a share of the least one that counts.
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
        """Let the model look at the next frame whatever it shows."""
        self._answer = None

    def close(self) -> None:
        """Let go of the sentry board."""
        self._sentry.close()

    def _motion_for(self, width: int, height: int) -> MotionDetector | None:
        """Return the motion detector for pictures of this size; None: they are too small."""
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
