"""Notice that the machine was suspended, for which CLOCK_MONOTONIC stands still, or that its clock was set forward."""

from __future__ import annotations

import logging
import time

from tridetr import boot_clock

logger = logging.getLogger("tridetr.controller")

_SHORTEST_NS = 500_000_000
# After a suspension, capture reads what was still in the buffers of its sockets, and stamps it with the current time.
_BUFFERED_NS = 1_000_000_000


class SuspensionWatch:
    """Compares the clocks of the machine for one camera.

    Attributes:
        counted_ns: time for which the machine was suspended since it was started, as far as ``poll`` has returned it.
        old_until_ns: monotonic time up to which captured frames may show the view from before a suspension.
    """

    def __init__(self, camera: str, hold_s: float) -> None:
        """Start to watch.

        Args:
            camera: name of the camera.
            hold_s: time for which a visit is held [s].
        """
        self.counted_ns = boot_clock.suspended_ns()
        self.old_until_ns = 0
        self._camera = camera
        self._hold_s = hold_s
        self._wall_ns = boot_clock.wall_offset_ns()

    def poll(self) -> int:
        """Return for how long the machine was suspended since the last call [ns]; 0 = not at all."""
        suspended_ns = boot_clock.suspended_ns() - self.counted_ns
        if suspended_ns < _SHORTEST_NS:
            return 0
        self.counted_ns += suspended_ns
        self.old_until_ns = time.monotonic_ns() + _BUFFERED_NS
        return suspended_ns

    def warn_of_step(self, *, visit_open: bool) -> None:
        """Log that the clock was set forward by ``hold_s`` or more during a visit: the machine may have been paused."""
        before_ns, self._wall_ns = self._wall_ns, boot_clock.wall_offset_ns()
        step_s = (self._wall_ns - before_ns) / 1e9
        if visit_open and step_s >= self._hold_s:
            logger.warning(
                "the clock was set forward by %.0f s during a visit. If this is a virtual machine that was paused, the "
                "person in view may be another one: the visit goes on without a new alarm",
                step_s,
                extra={"camera": self._camera},
            )
