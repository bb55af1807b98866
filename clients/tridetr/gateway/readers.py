"""The gateway's readers of one camera's rings and boards."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from tridetr.shm.boards import SentryReader, StatusReader
from tridetr.shm.detections import DetectionReader
from tridetr.shm.frames import FrameReader
from tridetr.shm.names import VIEW
from tridetr.shm.packets import PacketReader

CONSUMER = "gateway"


@dataclass(frozen=True, slots=True)
class NewestFrame:
    """Metadata of a camera's newest frame."""

    sequence: int
    frame_number: int
    width: int
    height: int
    capture_monotonic_ns: int
    capture_unix_ns: int
    lossless: bool


@dataclass(frozen=True, slots=True)
class NewestResult:
    """Metadata of a camera's newest result."""

    sequence: int
    frame_sequence: int
    frame_number: int
    capture_monotonic_ns: int
    lossless: bool
    published_ns: int
    infer_ms: float
    model: str
    count: int


class CameraReaders:
    """Opens the readers of one camera, whose rings need not exist yet. For one thread."""

    def __init__(self, instance: str, camera: str, *, has_view: bool = False) -> None:
        with contextlib.ExitStack() as stack:
            self.frames = FrameReader(instance, camera, CONSUMER)
            stack.callback(self.frames.close)
            self.detections = DetectionReader(instance, camera, CONSUMER)
            stack.callback(self.detections.close)
            self.packets = PacketReader(instance, camera, CONSUMER)
            stack.callback(self.packets.close)
            # Used for its wake-ups only: each viewer has its own reader, which also requests the stream.
            self.view = PacketReader(instance, camera, CONSUMER, kind=VIEW) if has_view else None
            if self.view is not None:
                stack.callback(self.view.close)
            self.sentry = SentryReader(instance, camera, CONSUMER)
            stack.callback(self.sentry.close)
            self.status = StatusReader(instance, camera)
            stack.callback(self.status.close)
            self._closing = stack.pop_all()

    def newest_frame(self) -> NewestFrame | None:
        """Return the newest frame's metadata without keeping a lease; None if there is no frame."""
        lease = self.frames.lease_newest()
        if lease is None:
            return None
        with lease:
            stamp = lease.stamp
            return NewestFrame(
                lease.sequence,
                stamp.frame_number,
                lease.width,
                lease.height,
                stamp.capture_monotonic_ns,
                stamp.capture_unix_ns,
                stamp.lossless,
            )

    def newest_result(self) -> NewestResult | None:
        """Return the newest result's metadata; None if there is no result."""
        lease = self.detections.lease_newest()
        if lease is None:
            return None
        with lease:
            stamp = lease.stamp
            return NewestResult(
                lease.sequence,
                stamp.frame_sequence,
                stamp.frame_number,
                stamp.capture_monotonic_ns,
                stamp.lossless,
                stamp.published_ns,
                (stamp.infer_end_ns - stamp.infer_start_ns) / 1e6,
                f"{stamp.model_name}/{stamp.model_version}",
                len(lease.detections),
            )

    def forget_removed(self) -> None:
        """Close rings whose files were removed, so that new ones are found; one system call per ring."""
        self.frames.forget_if_removed()
        self.detections.forget_if_removed()
        self.packets.forget_if_removed()
        if self.view is not None:
            self.view.forget_if_removed()

    def close(self) -> None:
        """Close all readers."""
        self._closing.close()
