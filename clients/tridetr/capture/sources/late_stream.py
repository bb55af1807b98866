"""Finds out whether a live stream over TCP (RTSP, MPEG-TS, FLV) is late: its timestamps advance slower than the clock.

So do those of a camera that counts wrongly, so the same proof is needed as for JPEGs; see `lateness`. But a second
connection to a server that is late itself is as late as the first one, and disproves nothing. So while the stream comes
as if over a full link, it stays doubtful.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tridetr.capture.sources import lateness
from tridetr.capture.sources.lateness import Comparison
from tridetr.errors import SourceError

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream

# Of packets that are compared: smaller ones of a scene without motion may be alike
LEAST_BYTES = 500
_JUMP_S = 10.0  # of the timestamps; also the longest time between packets
_PERIOD_S = 1800.0  # in it, the clock of a camera is off by less than half a second
# A link is judged by the packets of a few groups of pictures: of this time, but at least this number
_JUDGED_S = 20.0
_JUDGED = 60
_FULL_SHARE = 0.6  # of a link that its video takes; audio may take the rest
_HELD = 2  # packets that FFmpeg can hold back, so that one seems to come when a later one does
_LEAST_SPREAD = 0.2  # of the sizes, relative to their mean; with less, nothing is known


class LinkShare:
    """Estimates which share of the slowest link on the way a stream takes. Pure: all times are arguments [s].

    On a full link, the time from one packet to the next is proportional to the size; otherwise, the camera's clock
    determines it. The share is the slope of the line through the times over the sizes, relative to a line through zero.
    """

    def __init__(self) -> None:
        # When each one arrived, and its size in bytes
        self._packets: deque[tuple[float, int]] = deque()

    def packet(self, size: int, now_s: float) -> None:
        """Take in a packet."""
        self._packets.append((now_s, size))
        while now_s - self._packets[0][0] > _JUDGED_S and len(self._packets) > _JUDGED + 1:
            self._packets.popleft()

    def may_be_full(self) -> bool:
        """Return whether the stream may take all that the link carries: unless its packets show that it does not."""
        if len(self._packets) <= _JUDGED:
            return True
        arrived_s, sizes = np.array(self._packets).T
        gaps_s, sizes = np.diff(arrived_s), sizes[1:]
        if sizes.std() < _LEAST_SPREAD * sizes.mean():
            return True
        return any(
            _slope(gaps_s[: len(gaps_s) - held], sizes[held:]) * sizes.mean()
            > _FULL_SHARE * gaps_s.mean()
            for held in range(_HELD + 1)
        )


def _slope(y: NDArray[np.float64], x: NDArray[np.float64]) -> float:
    """Return the slope of the regression line of y over x."""
    return float(np.cov(x, y)[0, 1] / x.var(ddof=1))


class MediaLag:
    """Measures how far the timestamps of a stream have fallen behind the clock. Pure: all times are arguments [s]."""

    def __init__(self) -> None:
        self._media_s: float | None = None
        self._began_s = float("-inf")  # of the present period
        # Least arrival time minus timestamp in the former and the present period
        self._least = [float("inf"), float("inf")]

    def packet(self, media_s: float, now_s: float) -> float:
        """Return by how much a packet is later than the earliest one of the last half an hour or hour.

        Args:
            media_s: Its timestamp.
            now_s: When it arrived.
        """
        if self._media_s is None or abs(media_s - self._media_s) > _JUMP_S:
            self._least = [float("inf"), float("inf")]
            self._began_s = now_s
        self._media_s = media_s
        if now_s - self._began_s > _PERIOD_S:
            self._least = [self._least[1], float("inf")]
            self._began_s = now_s
        self._least[1] = min(self._least[1], now_s - media_s)
        return now_s - media_s - min(self._least)


class LateStream:
    """Watches the packets of one connection."""

    def __init__(self, comparison: Comparison, shown: str) -> None:
        """Begin with the connection.

        Args:
            comparison: Compares its packets with those of a second connection.
            shown: The camera's address for messages.
        """
        self._comparison = comparison
        self._shown = shown
        self._lag = MediaLag()
        self._share = LinkShare()

    def packet(self, packet: av.Packet[VideoStream]) -> None:
        """Take in the next packet.

        Raises:
            SourceError: The stream is late; a new connection begins with a new picture.
        """
        at, now_s = packet.dts if packet.dts is not None else packet.pts, time.monotonic()
        if at is None or packet.time_base is None:
            return
        lag_s = self._lag.packet(float(at * packet.time_base), now_s)
        self._share.packet(packet.size, now_s)
        if packet.size < LEAST_BYTES:
            return
        is_late, known = lag_s >= lateness.LATE_S, self._comparison.known
        known.lags(lag_s, self._share.may_be_full)
        if self._comparison.is_late(bytes(packet), now_s, is_full=is_late):
            raise SourceError(f"{self._shown}: {known.fault}")

    def close(self) -> None:
        """End with the connection."""
        self._comparison.close()
