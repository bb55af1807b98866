"""Reads packets of a network stream in a thread, so that each gets its true arrival time.

Reading continues while the consumer decodes, so packets do not pile up in a socket buffer. Packets that
the consumer cannot take in time are dropped here, before they cost any decoding.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import av

from tridetr.capture.sources.av import explain
from tridetr.capture.sources.base import LoginError, SourceLostError, StreamFacts
from tridetr.capture.sources.metronome import Metronome
from tridetr.errors import SourceError, TridetrError
from tridetr.hang_up import HangUp
from tridetr.telemetry import heartbeat

if TYPE_CHECKING:
    from av.video.stream import VideoStream

    from tridetr.capture.packets import PacketSink

_log = logging.getLogger("tridetr.capture")

INTRA_CODECS = {"mjpeg", "rawvideo", "png", "jpeg2000"}
_INTRA_LIMIT = 2  # the newest, and one while it is being taken
_INTER_LIMIT = 150  # 5 s at 30 fps; beyond that, decoding restarts at a key frame
_KEY_FRAME_PATIENCE_S = 10.0
_STUCK_S = 30.0
_LONGEST_WITHOUT_PICTURE_S = 300.0  # then a new connection may help


class Feed(Protocol):
    """A connection that yields packets; created and read in the pump's thread.

    Attributes:
        stream: FFmpeg's stream, for decoders; None if the packets are JPEGs.
        facts: Properties that the stream reports.
        metronome: Spreads out packets that the server sends faster than in real time; None for a live camera.
        held_s: How long ago the newest packet arrived, if it was held back during a stall [s].
        misnumbered: How often the sequence numbers of RTP packets jumped, other than by a loss or by disorder.
    """

    stream: VideoStream | None
    facts: StreamFacts
    metronome: Metronome | None
    held_s: float
    misnumbered: int

    def packets(self, hang_up: threading.Event) -> Iterator[av.Packet[VideoStream]]:
        """Yield packets until the stream ends or `hang_up` is set; raises OSError or SourceError."""
        ...

    def close(self) -> None:
        """Free it."""
        ...


@dataclass(frozen=True, slots=True)
class Arrival:
    """A packet and its arrival time.

    Attributes:
        packet: The packet.
        index: Number of packets since the first key frame, including dropped ones.
        monotonic_ns: Arrival on CLOCK_MONOTONIC [ns].
        unix_ns: Arrival in Unix time [ns].
        restart: Whether packets are missing before it, so that the decoder must be flushed.
    """

    packet: av.Packet[VideoStream]
    index: int
    monotonic_ns: int
    unix_ns: int
    restart: bool


class PacketPump:
    """Reads one connection in a thread; create a new pump for each attempt."""

    def __init__(
        self,
        connect: Callable[[HangUp], Feed],
        shown: str,
        timeout_s: float,
        sink: PacketSink | None = None,
    ) -> None:
        """Prepare the thread.

        Args:
            connect: Opens the connection, which must end once its argument is set; called once, in the thread.
            shown: The camera's address for messages.
            timeout_s: How long a read may take [s].
            sink: Receives every packet as it arrives.
        """
        self._sink = sink
        self._connect = connect
        self._shown = shown
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._queue: deque[Arrival] = deque()
        self._feed: Feed | None = None
        self._error: SourceError | None = None
        self._hang_up = HangUp()
        self._index = 0
        self._need_key_frame = True
        self._needed_since_s = 0.0
        self._restart = False
        self._last_packet_s = 0.0
        self._closed_s = float("inf")
        # A daemon thread, so that exit does not wait for a server that does not respond
        self._thread = threading.Thread(target=self._run, name="packet-pump", daemon=True)

    def start(self, stop: threading.Event) -> Feed:
        """Start the thread and return the connection.

        Raises:
            SourceError: It cannot be opened in time, or `stop` is set.
        """
        deadline = self._hang_up.until_s = time.monotonic() + 2 * self._timeout_s + 1
        self._thread.start()
        with self._changed:
            while self._feed is None and self._error is None:
                if stop.is_set() or time.monotonic() > deadline:
                    self._hang_up.set()
                    raise SourceError(f"cannot open {self._shown}: gave up waiting")
                heartbeat.beat()  # this wait is bounded, so it is not a hang
                self._changed.wait(0.1)
            if self._feed is None:
                assert self._error is not None
                raise self._error
            return self._feed

    def get(self, timeout_s: float) -> Arrival | None:
        """Return the next packet; None after the timeout.

        Raises:
            LoginError: User and password must not be sent again soon.
            SourceLostError: The stream has ended, and all its packets were taken.
        """
        with self._changed:
            if not self._queue and self._error is None:
                self._changed.wait(timeout_s)
            if self._queue:
                return self._queue.popleft()
            if isinstance(self._error, LoginError) and self._error.was_sent:
                raise self._error
            if self._error is not None:
                raise SourceLostError(str(self._error))
            return None

    def delivers(self) -> bool:
        """Return whether packets arrive, even if no picture can be decoded from them yet."""
        with self._changed:
            now = time.monotonic()
            lately = now - self._last_packet_s < self._timeout_s
            return lately and now - self._needed_since_s < _LONGEST_WITHOUT_PICTURE_S

    def silent_s(self) -> float:
        """Return the time since the newest packet arrived [s]."""
        with self._changed:
            return time.monotonic() - self._last_packet_s

    def waiting(self) -> list[int]:
        """Return the indexes of the waiting packets."""
        with self._changed:
            return [arrival.index for arrival in self._queue]

    def close(self) -> None:
        """Stop reading; the thread ends by itself, when its read times out at the latest."""
        with self._changed:  # afterwards the sink belongs to the next connection
            self._hang_up.set()
            self._queue.clear()
        self._closed_s = time.monotonic()
        self._thread.join(0.2)

    def is_alive(self) -> bool:
        """Return whether the thread still reads."""
        return self._thread.is_alive()

    def is_stuck(self) -> bool:
        """Return whether the thread still reads, although it should have ended long ago."""
        since_s = time.monotonic() - self._closed_s
        return self.is_alive() and since_s > max(_STUCK_S, 3 * self._timeout_s)

    def _run(self) -> None:
        feed = None
        error: SourceError
        try:
            feed = self._connect(self._hang_up)
            with self._changed:
                if self._sink is not None and not self._hang_up.is_set():
                    self._sink.begin(feed)
                self._feed = feed
                self._needed_since_s = time.monotonic()
                self._changed.notify_all()
            limit = _INTRA_LIMIT if feed.facts.codec in INTRA_CODECS else _INTER_LIMIT
            for packet in feed.packets(self._hang_up):
                if feed.metronome is not None:
                    self._hang_up.wait(feed.metronome.wait_s(packet, time.monotonic()))
                if self._hang_up.is_set():
                    break
                self._arrived(packet, limit, round(feed.held_s * 1e9))
            error = SourceError(f"{self._shown}: the stream has ended")
        except Exception as failed:  # also a bug, which it logs: the camera is opened again
            error = as_source_error(self._shown, failed)
        with self._changed:
            self._error = error
            self._changed.notify_all()
        if feed is not None:
            # Only after the consumer has closed the pump: it may be reading the stream, which is freed with the feed.
            self._hang_up.wait()
            feed.close()

    def _arrived(self, packet: av.Packet[VideoStream], limit: int, held_ns: int) -> None:
        now, unix = time.monotonic_ns() - held_ns, time.time_ns() - held_ns
        with self._changed:
            if self._sink is not None and not self._hang_up.is_set():
                self._sink.put(packet, now, unix)
            self._last_packet_s = time.monotonic()
            if len(self._queue) >= limit:
                if limit == _INTRA_LIMIT:
                    self._queue.popleft()
                else:
                    self._queue.clear()
                    self._need_key_frame = self._restart = True
                    self._needed_since_s = self._last_packet_s
            # Some streams refresh without key frames
            patient = self._last_packet_s - self._needed_since_s < _KEY_FRAME_PATIENCE_S
            if self._need_key_frame and patient and not packet.is_keyframe:
                self._index += 1 if self._restart else 0
                return
            self._need_key_frame = False
            self._queue.append(Arrival(packet, self._index, now, unix, self._restart))
            self._index += 1
            self._restart = False
            self._changed.notify_all()


def as_source_error(shown: str, error: Exception) -> SourceError:
    """Return an error of a connection as a SourceError, with a message for the status.

    An unexpected error is logged with its traceback, but without its text, which may contain a URL with its password.

    Args:
        shown: The camera's address for messages.
        error: Any error raised while opening or reading the connection.
    """
    if isinstance(error, SourceError):
        return error
    if isinstance(error, TridetrError):  # such as a credentials file that cannot be read
        return SourceError(f"cannot open {shown}: {error}")
    if isinstance(error, av.FFmpegError | OSError):
        return SourceError(f"{shown}: {explain(error)}")
    kind = type(error).__name__
    where = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    _log.error("%s: unexpected %s, please report it:\n%s", shown, kind, where)
    return SourceError(f"{shown}: unexpected {kind} (the log has more)")
