"""Lease a camera's newest frame, from GPU memory if the server can read it there, otherwise from host memory."""

from __future__ import annotations

import time
from contextlib import ExitStack

from tridetr.shm.closing import Closing
from tridetr.shm.frames import DeviceFrameLease, DeviceFrameReader, FrameLease, FrameReader
from tridetr.shm.wakeup import Wakeup

AnyFrame = FrameLease | DeviceFrameLease

# The gpu process uploads a frame in a fraction of a millisecond: after this long it counts as hung.
_LATE_S = 0.5


class NewestFrames(Closing):
    """Leases a camera's newest frame from its two rings, which use the same sequence numbers; a context manager.

    Attributes:
        host: The reader of the frame ring in host memory.
    """

    def __init__(self, instance: str, camera: str) -> None:
        """Open both rings; they may be created later.

        Raises:
            ShmError: A limit of the system is reached.
        """
        with ExitStack() as stack:
            self.host = stack.enter_context(FrameReader(instance, camera, "detector"))
            self._device = stack.enter_context(DeviceFrameReader(instance, camera, "detector"))
            self._closing = stack.pop_all()
        self._waiting_s: float | None = None  # since when a frame has been waiting for its upload

    @property
    def wakeups(self) -> list[Wakeup]:
        """The wake-ups of both rings, which become readable when a frame arrives."""
        return [reader.wakeup for reader in (self.host, self._device) if reader.wakeup]

    def lease(self, after: int, *, gpu: bool) -> AnyFrame | None:
        """Lease the newest frame with a sequence greater than ``after``.

        While the gpu process runs, a frame is available once it is uploaded to the GPU. If the upload is late, the
        frame in host memory is leased instead.

        Args:
            after: Sequence of the last frame that was processed.
            gpu: Whether the server may be able to read GPU memory.
        """
        if not gpu or not self._device.is_written():
            self._waiting_s = None
            return self.host.lease_newest(after)
        device = self._device.lease_newest(after)
        if device is not None:
            self._waiting_s = None
            return device
        host = self.host.lease_newest(after)
        if host is None:
            return None
        now = time.monotonic()
        if self._waiting_s is None:
            self._waiting_s = now
        if now - self._waiting_s > _LATE_S:
            return host
        host.release()
        return None

    def host_of(self, lease: AnyFrame) -> FrameLease | None:
        """Lease the same frame in host memory; None if it was overwritten."""
        host = self.host.lease_next(lease.sequence - 1)
        if host is not None and host.sequence != lease.sequence:
            host.release()
            return None
        return host

    def forget_if_removed(self) -> None:
        """Release rings whose files were removed; call this about once a second."""
        self.host.forget_if_removed()
        self._device.forget_if_removed()

    def close(self) -> None:
        """Release both rings."""
        self._closing.close()
