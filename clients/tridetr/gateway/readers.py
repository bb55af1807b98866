"""The gateway's readers of one camera's rings and boards."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from tridetr.shm.boards import SentryReader, StatusReader
from tridetr.shm.detections import DetectionReader, ResultStamp
from tridetr.shm.frames import FrameReader, FrameStamp
from tridetr.shm.names import VIEW
from tridetr.shm.packets import PacketReader

CONSUMER = "gateway"


@dataclass(frozen=True, slots=True)
class NewestFrame:
    """Metadata of a camera's newest frame."""

    sequence: int
    width: int
    height: int
    stamp: FrameStamp


class CameraReaders:
    """Opens the readers of one camera, whose rings need not exist yet. For one thread."""

    def __init__(self, instance: str, camera: str, *, has_view: bool = False) -> None:
        with contextlib.ExitStack() as stack:
            self.frames = stack.enter_context(FrameReader(instance, camera, CONSUMER))
            self.detections = stack.enter_context(DetectionReader(instance, camera, CONSUMER))
            self.packets = stack.enter_context(PacketReader(instance, camera, CONSUMER))
            self.view: PacketReader | None = None
            if has_view:
                # Used for its wake-ups only: each viewer has its own reader, which also requests the stream.
                self.view = PacketReader(instance, camera, CONSUMER, kind=VIEW)
                stack.enter_context(self.view)
            self.sentry = stack.enter_context(SentryReader(instance, camera, CONSUMER))
            self.status = stack.enter_context(StatusReader(instance, camera))
            self._closing = stack.pop_all()

    def newest_frame(self) -> NewestFrame | None:
        """Return the newest frame's metadata without keeping a lease; None if there is no frame."""
        lease = self.frames.lease_newest()
        if lease is None:
            return None
        with lease:
            return NewestFrame(lease.sequence, lease.width, lease.height, lease.stamp)

    def newest_result(self) -> tuple[ResultStamp, int] | None:
        """Return the newest result's metadata and number of detections; None if there is no result."""
        lease = self.detections.lease_newest()
        if lease is None:
            return None
        with lease:
            return lease.stamp, len(lease.detections)

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
