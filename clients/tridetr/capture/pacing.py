"""Which frames go on: the sentry mode sets the rate, the frames' own times are the clock. Pure."""

from __future__ import annotations

from enum import Enum

_SECOND_NS = 1_000_000_000


class Pace(Enum):
    """What the controller wants, or that there is none."""

    STANDBY = "standby"
    ALARMED = "alarmed"
    NO_CONTROLLER = "no controller"


class Pacer:
    """Thins frames out to the wanted rate, on a schedule so that the average holds.

    A frame may come early by a tenth of the interval, but at most by half the time between frames
    (then the next one is nearer): a 30 fps camera with jitter and a limit of 30 fps loses nothing.

    >>> pacer = Pacer(standby_fps=5.0, limit_fps=None)
    >>> [n for n in range(10) if pacer.wants(n * 100_000_000, Pace.STANDBY)]
    [0, 2, 4, 6, 8]
    """

    def __init__(self, standby_fps: float, limit_fps: float | None) -> None:
        """Set the rates.

        Args:
            standby_fps: frames per second while nobody is there.
            limit_fps: most frames per second at any time; None = all the source gives.
        """
        standby = standby_fps if limit_fps is None else min(standby_fps, limit_fps)
        self._standby_ns = round(_SECOND_NS / standby)
        self._full_ns = 0 if limit_fps is None else round(_SECOND_NS / limit_fps)
        self._interval_ns = -1
        self._due_ns = 0
        self._last_ns = 0

    def wants(self, capture_ns: int, pace: Pace) -> bool:
        """Decide on one frame; frames come in order.

        Args:
            capture_ns: the frame's capture time, on any clock that goes on [ns].
            pace: the mode at this moment; without a controller every frame counts.
        """
        interval = self._standby_ns if pace is Pace.STANDBY else self._full_ns
        gap, self._last_ns = max(0, capture_ns - self._last_ns), capture_ns
        if interval != self._interval_ns:  # another mode begins with its first frame
            self._interval_ns = interval
            self._due_ns = capture_ns
        if interval == 0:
            return True
        if capture_ns < self._due_ns - 2 * interval:  # the clock went back
            self._due_ns = capture_ns
        if capture_ns < self._due_ns - min(interval // 10, gap // 2):
            return False
        self._due_ns += interval
        if self._due_ns < capture_ns:  # there was a gap: no burst to catch up
            self._due_ns = capture_ns + interval
        return True
