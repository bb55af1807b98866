"""Lets a capture process watch the frames that the gpu process decodes from its packets."""

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
        """Open the ring, which does not have to exist yet.

        Args:
            instance: Instance of tridetr.
            camera: Name of the camera.
            standby_fps: Lowest frame rate in normal operation.
        """
        self._frames = FrameReader(instance, camera, None)
        self._patience_s = _PATIENCE_S + 2 / standby_fps
        self._sequence = 0
        self._came_s = time.monotonic()
        self._looked_s = 0.0
        self.size = (0, 0)

    def expect(self) -> None:
        """Restart the timeout: the camera's packets start now."""
        self._came_s = time.monotonic()

    def newest(self) -> FrameLease | None:
        """Lease the newest frame; None if there is no new one since the last call."""
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
        """Return why a camera that sends packets has no frames; empty if it has some, or may soon.

        Args:
            packet_ns: When the newest packet arrived (CLOCK_MONOTONIC).
        """
        if packet_ns / 1e9 - self._came_s < self._patience_s:
            return ""
        if not self._frames.is_written():
            return "decode: gpu, but the gpu process is not running; it is being restarted (see its log for the reason)"
        return "decode: gpu, but the gpu process does not decode this stream (see its log for the reason)"

    def give_memory_back(self) -> None:
        """Do nothing: the gpu process owns the ring."""

    def close(self) -> None:
        """Close the ring."""
        self._frames.close()
