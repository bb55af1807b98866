"""Paces frames: thins them out, by their capture times, to the rate that the sentry mode asks for. Does no I/O."""

from __future__ import annotations

from enum import Enum

_SECOND_NS = 1_000_000_000


class Pace(Enum):
    """Pace that the controller asks for, or NO_CONTROLLER if none is running."""

    STANDBY = "standby"
    ALARMED = "alarmed"
    NO_CONTROLLER = "no controller"


class Pacer:
    """Thins frames out to a target rate, on a fixed schedule so that the average rate is met.

    A frame may be early by a tenth of the interval, but at most by half the time between frames
    (beyond that, the next frame is nearer). So a 30 fps camera with jitter and a limit of 30 fps
    loses no frames.

    >>> pacer = Pacer(standby_fps=5.0, limit_fps=None)
    >>> [n for n in range(10) if pacer.wants(n * 100_000_000, Pace.STANDBY)]
    [0, 2, 4, 6, 8]
    """

    def __init__(self, standby_fps: float, limit_fps: float | None) -> None:
        """Set the rates.

        Args:
            standby_fps: Frames per second in standby.
            limit_fps: Highest frames per second in any mode; None for no limit.
        """
        standby = standby_fps if limit_fps is None else min(standby_fps, limit_fps)
        self._standby_ns = round(_SECOND_NS / standby)
        self._full_ns = 0 if limit_fps is None else round(_SECOND_NS / limit_fps)
        self._interval_ns = -1
        self._due_ns = 0
        self._last_ns = 0

    def wants(self, capture_ns: int, pace: Pace) -> bool:
        """Return whether to keep a frame; call it in the order of capture.

        Args:
            capture_ns: The frame's capture time, on any monotonic clock [ns].
            pace: The current pace; only STANDBY reduces the rate below `limit_fps`.
        """
        interval = self._standby_ns if pace is Pace.STANDBY else self._full_ns
        gap, self._last_ns = max(0, capture_ns - self._last_ns), capture_ns
        if interval != self._interval_ns:  # a new rate starts with this frame
            self._interval_ns = interval
            self._due_ns = capture_ns
        if interval == 0:
            return True
        if capture_ns < self._due_ns - 2 * interval:  # the clock went backwards
            self._due_ns = capture_ns
        if capture_ns < self._due_ns - min(interval // 10, gap // 2):
            return False
        self._due_ns += interval
        if self._due_ns < capture_ns:  # there was a gap: no burst to catch up
            self._due_ns = capture_ns + interval
        return True

    def again(self) -> None:
        """Keep the next frame, because the last one was damaged."""
        self._interval_ns = -1
