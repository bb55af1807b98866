"""Finds out whether a live stream over TCP (RTSP, MPEG-TS, FLV) is late: its timestamps advance slower than the clock.

So do those of a camera that counts wrongly, so the same proof is needed as for JPEGs; see `lateness`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from tridetr.capture.sources import lateness
from tridetr.capture.sources.lateness import Comparison, Lateness
from tridetr.errors import SourceError
from tridetr.hang_up import HangUp

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream

# Of packets that are compared: smaller ones of a scene without motion may be alike
LEAST_BYTES = 500
_JUMP_S = 10.0  # of the timestamps; also the longest time between packets
_PERIOD_S = 1800.0  # in it, the clock of a camera is off by less than half a second


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

    def __init__(
        self,
        known: Lateness,
        read_apart: Callable[[HangUp], Generator[bytes, None, None]],
        shown: str,
        timeout_s: float,
    ) -> None:
        """Begin with the connection.

        Args:
            known: What is known from all connections to the camera.
            read_apart: Opens another connection and yields its packets, until its argument is set.
            shown: The camera's address for messages.
            timeout_s: How long a read may take [s].
        """
        self._comparison = Comparison(known, read_apart, shown, 3 * timeout_s)
        self._shown = shown
        self._lag = MediaLag()

    def packet(self, packet: av.Packet[VideoStream]) -> None:
        """Take in the next packet.

        Raises:
            SourceError: The stream is late; a new connection begins with a new picture.
        """
        at, now_s = packet.dts if packet.dts is not None else packet.pts, time.monotonic()
        if at is None or packet.time_base is None:
            return
        lag_s = self._lag.packet(float(at * packet.time_base), now_s)
        if packet.size < LEAST_BYTES:
            return
        is_late, known = lag_s >= lateness.LATE_S, self._comparison.known
        known.suspect(lag_s if is_late else 0.0)
        if self._comparison.is_late(bytes(packet), now_s, is_full=is_late):
            raise SourceError(f"{self._shown}: {known.fault}")

    def close(self) -> None:
        """End with the connection."""
        self._comparison.close()
