"""Spread out packets that arrive in bursts (HLS segments, files on a web server) by their timestamps."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream

_LATEST_S = 1.0
_LONGEST_WAIT_S = 10.0
_FASTER = 1.25  # speed while the stream is read too far behind


class Metronome:
    """Determines when each packet is due."""

    def __init__(
        self, time_base: Fraction | None, is_behind: Callable[[], bool] = lambda: False
    ) -> None:
        """Set the stream's time base.

        Args:
            time_base: Unit of the timestamps [s].
            is_behind: Returns whether to play faster: a camera whose timestamps are slower than its clock would
                otherwise be read further and further behind, until its segments are gone.
        """
        self._time_base = time_base
        self._is_behind = is_behind
        self._zero_s: float | None = None
        self._media_s = 0.0

    def wait_s(self, packet: av.Packet[VideoStream], now_s: float) -> float:
        """Return how long to hold a packet back [s]; late or implausible timestamps restart the schedule."""
        at = packet.dts if packet.dts is not None else packet.pts
        if at is None or self._time_base is None:
            return 0.0
        media_s = float(at * self._time_base)
        passed_s, self._media_s = media_s - self._media_s, media_s
        longest_s = _LONGEST_WAIT_S
        if self._zero_s is None:
            self._zero_s = now_s - media_s
        elif self._is_behind():
            self._zero_s -= max(0.0, passed_s) * (1 - 1 / _FASTER)
            longest_s = _LATEST_S  # a longer gap: segments were missed
        wait_s = self._zero_s + media_s - now_s
        if not -_LATEST_S <= wait_s <= longest_s:
            self._zero_s = now_s - media_s
            return 0.0
        return max(0.0, wait_s)
