"""A camera's newest frame: in GPU memory where the server reads it there, in host memory otherwise."""

from __future__ import annotations

import time
from contextlib import ExitStack

from tridetr.shm.closing import Closing
from tridetr.shm.frames import DeviceFrameLease, DeviceFrameReader, FrameLease, FrameReader
from tridetr.shm.wakeup import Wakeup

AnyFrame = FrameLease | DeviceFrameLease

# The gpu process needs a fraction of a millisecond for a frame: after this long it hangs.
_LATE_S = 0.5


class NewestFrames(Closing):
    """Leases a camera's newest frame from its two rings, which count by the same sequences; a context manager.

    Attributes:
        host: The frame ring.
    """

    def __init__(self, instance: str, camera: str) -> None:
        """Open both rings; neither need exist yet.

        Raises:
            ShmError: A limit of the system is reached.
        """
        with ExitStack() as stack:
            self.host = stack.enter_context(FrameReader(instance, camera, "detector"))
            self._device = stack.enter_context(DeviceFrameReader(instance, camera, "detector"))
            self._closing = stack.pop_all()
        self._waiting_s: float | None = None  # since when a frame has not been uploaded

    @property
    def wakeups(self) -> list[Wakeup]:
        """What becomes readable when there is a frame."""
        return [reader.wakeup for reader in (self.host, self._device) if reader.wakeup]

    def lease(self, after: int, *, gpu: bool) -> AnyFrame | None:
        """Lease the newest frame with a sequence greater than ``after``.

        While the gpu process lives, a frame counts as there when it is uploaded; when the process is late, its copy in
        host memory does.

        Args:
            after: Sequence of the last frame.
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
        """Lease the same frame in host memory; None: it is not there any more."""
        host = self.host.lease_next(lease.sequence - 1)
        if host is not None and host.sequence != lease.sequence:
            host.release()
            return None
        return host

    def forget_if_removed(self) -> None:
        """Let go of rings whose files were removed; call it about once a second."""
        self.host.forget_if_removed()
        self._device.forget_if_removed()

    def close(self) -> None:
        """Let go of both rings."""
        self._closing.close()
