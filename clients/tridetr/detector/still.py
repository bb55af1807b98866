"""Whether a picture is still the one that the model has seen: then its answer holds, and the model is spared.

Only where nothing can be lost by it: the controller says that the camera is calm, the last answer shows nobody of a
class that alarms, and it is not older than the user allows. Whatever is unknown (no controller, an error, a new model,
another size, a frame that lies on a GPU only) means: infer.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tridetr.config import DetectSection
from tridetr.shm.boards import SentryMode, SentryReader, SentryState
from tridetr.shm.closing import Closing
from tridetr.shm.detections import ResultStamp
from tridetr.shm.frames import FrameLease

Patches = NDArray[np.float32]
_SAMPLES = (
    240  # across the picture: more than the model's own resolution tells apart in a small person
)
_PATCH = 4  # samples a side, so that the noise of single pixels averages out


@dataclass(frozen=True)
class Answer:
    """What the model said last.

    Attributes:
        stamp: Of the result.
        rows: Its detections, ``DETECTION_DTYPE`` [n].
    """

    stamp: ResultStamp
    rows: NDArray[np.void]

    def stamp_for(self, lease: FrameLease, now_ns: int) -> ResultStamp:
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


def brightness(luma: NDArray[np.uint8]) -> Patches:
    """Return the mean brightness of patches, about sixty across the picture; the edges are part of it.

    Args:
        luma: uint8 [H, W].

    Example:
        >>> brightness(np.full((1080, 1920), 7, np.uint8)).shape
        (34, 60)
    """
    step = max(1, luma.shape[1] // _SAMPLES)
    samples = luma[::step, ::step]
    rows, columns = (np.arange(0, size, _PATCH) for size in samples.shape)
    sums = np.add.reduceat(samples, rows, axis=0, dtype=np.uint32)
    sums = np.add.reduceat(sums, columns, axis=1)
    heights, widths = (
        np.minimum(_PATCH, size - starts)
        for size, starts in zip(samples.shape, (rows, columns), strict=True)
    )
    return (sums / np.outer(heights, widths)).astype(np.float32)


class Stillness(Closing):
    """Remembers the picture of one camera that was inferred last."""

    def __init__(self, instance: str, camera: str, section: DetectSection) -> None:
        """Begin without a memory.

        Args:
            instance: Instance of tridetr.
            camera: Name of the camera.
            section: Its keys ``unchanged_s`` (0: every frame is inferred) and ``unchanged_below``.
        """
        self._longest_ns = int(section.unchanged_s * 1e9)
        self._below = section.unchanged_below
        self._sentry = SentryReader(instance, camera)
        self._now: Patches | None = None  # of the frame that is leased at this moment
        self._seen: Patches | None = None
        self._answer: Answer | None = None

    def answer_for(self, lease: FrameLease) -> Answer | None:
        """Return the answer that holds for a frame too; None: the model has to look."""
        self._now = None
        if not self._longest_ns or lease.device_only or lease.stamp.lossless:
            return None
        self._now = brightness(lease.planes[: lease.height])
        answer, seen, now_ns = self._answer, self._seen, time.monotonic_ns()
        if (
            answer is None
            or seen is None
            or now_ns > answer.stamp.infer_start_ns + self._longest_ns
        ):
            return None
        if (answer.stamp.width, answer.stamp.height) != (lease.width, lease.height):
            return None
        if float(np.abs(self._now - seen).max()) >= self._below or not self._calm(now_ns):
            return None
        return answer

    def inferred(
        self, stamp: ResultStamp, rows: NDArray[np.void], alarming: Collection[int]
    ) -> None:
        """Remember the frame that was asked about last, unless somebody is on it.

        Args:
            stamp: Of its result.
            rows: Its detections.
            alarming: Class ids that can raise the alarm.
        """
        if self._now is None or np.isin(rows["class_id"], list(alarming)).any():
            self.forget()
        else:
            self._seen, self._answer = self._now, Answer(stamp, rows)

    def forget(self) -> None:
        """Let the model look at the next frame whatever it shows."""
        self._seen = self._answer = None

    def close(self) -> None:
        """Let go of the sentry board."""
        self._sentry.close()

    def _calm(self, now_ns: int) -> bool:
        snapshot = self._sentry.read()
        return (
            snapshot is not None
            and snapshot.expires_monotonic_ns >= now_ns
            and snapshot.mode is SentryMode.STANDBY
            and snapshot.state is SentryState.STANDBY
        )
