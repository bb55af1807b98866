"""The frames that the gpu process decodes from this camera's packets, as its capture process sees them."""

from __future__ import annotations

import time

from tridetr.shm.closing import Closing
from tridetr.shm.frames import FrameLease, FrameReader

_PATIENCE_S = 2.0  # a decoder starts at a key frame, and the gpu process needs a second to start


class FrameWatch(Closing):
    """Follows a camera's frame ring that the gpu process writes; a context manager.

    Attributes:
        size: Width and height of the newest frame; (0, 0) while there is none.
    """

    def __init__(self, instance: str, camera: str, standby_fps: float) -> None:
        """Open the ring, which need not exist yet.

        Args:
            instance: Instance of tridetr.
            camera: Name of the camera.
            standby_fps: The lowest rate of frames while all is well.
        """
        self._frames = FrameReader(instance, camera, None)
        self._patience_s = _PATIENCE_S + 2 / standby_fps
        self._sequence = 0
        self._came_s = time.monotonic()
        self._looked_s = 0.0
        self.size = (0, 0)

    def expect(self) -> None:
        """Note that the camera's packets begin now."""
        self._came_s = time.monotonic()

    def newest(self) -> FrameLease | None:
        """Lease the newest frame if it was not leased before."""
        if time.monotonic() - self._looked_s > 1.0:
            self._looked_s = time.monotonic()
            self._frames.forget_if_removed()
        lease = self._frames.lease_newest(self._sequence)
        if lease is not None:
            self._sequence = lease.sequence
            self._came_s = time.monotonic()
            self.size = (lease.width, lease.height)
        return lease

    def fault(self, packet_ns: int) -> str:
        """Return why a camera whose packets come has no frames; empty while it has, or may have soon.

        Args:
            packet_ns: When the newest packet came (CLOCK_MONOTONIC).
        """
        if packet_ns / 1e9 - self._came_s < self._patience_s:
            return ""
        if not self._frames.is_written():
            return "decode: gpu, but the gpu process does not run; it is started again (its log has the reason)"
        return "decode: gpu, but the gpu process makes no pictures of this stream (its log has the reason)"

    def give_memory_back(self) -> None:
        """The ring is the gpu process's."""

    def close(self) -> None:
        """Let go of the ring."""
        self._frames.close()
