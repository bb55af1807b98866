"""Reads packets of a network stream in a thread, so that each gets its arrival time.

Reading goes on while the consumer decodes: nothing waits unseen in a socket buffer, and what the
consumer cannot take in time is thrown away here, where it is cheap.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av

from tridetr.capture.sources.av import explain, open_video, packets
from tridetr.capture.sources.base import SourceLostError
from tridetr.errors import SourceError
from tridetr.telemetry import heartbeat

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

INTRA_CODECS = {"mjpeg", "rawvideo", "png", "jpeg2000"}
_INTRA_LIMIT = 2  # the newest, and one while it is being taken
_INTER_LIMIT = 150  # 5 s at 30 fps: then decoding has lost, and starts again at a key frame
_KEY_FRAME_PATIENCE_S = 10.0
_LATEST_S = 1.0
_LONGEST_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A packet and when it came.

    `index` counts packets since the first key frame, those thrown away too; `restart` means that
    packets are missing before it and the decoder must be flushed.
    """

    packet: av.Packet[VideoStream]
    index: int
    monotonic_ns: int
    unix_ns: int
    restart: bool


class Metronome:
    """Spreads packets that come in bursts (HLS segments, files on a web server) by their own times."""

    def __init__(self, stream: VideoStream) -> None:
        self._time_base = stream.time_base
        self._zero_s: float | None = None

    def wait_s(self, packet: av.Packet[VideoStream], now_s: float) -> float:
        """Return how long to hold a packet back [s]; late and odd times start the beat anew."""
        at = packet.dts if packet.dts is not None else packet.pts
        if at is None or self._time_base is None:
            return 0.0
        media_s = float(at * self._time_base)
        if self._zero_s is None:
            self._zero_s = now_s - media_s
        wait_s = self._zero_s + media_s - now_s
        if not -_LATEST_S <= wait_s <= _LONGEST_WAIT_S:
            self._zero_s = now_s - media_s
            return 0.0
        return max(0.0, wait_s)


def _comes_in_bursts(container: InputContainer) -> bool:
    # What has an end is a file; a camera's stream has none
    return container.duration is not None or container.format.name in ("hls", "dash")


class PacketPump:
    """One connection; made anew for each attempt."""

    def __init__(self, url: str, shown: str, options: dict[str, str], timeout_s: float) -> None:
        self._url = url
        self._shown = shown
        self._options = options
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._queue: deque[Arrival] = deque()
        self._stream: VideoStream | None = None
        self._error: SourceError | None = None
        self._hang_up = threading.Event()
        self._index = 0
        self._need_key_frame = True
        self._restart = False
        # A daemon: at exit nobody waits for a server that does not answer
        self._thread = threading.Thread(target=self._run, name="packet-pump", daemon=True)

    def start(self, stop: threading.Event) -> VideoStream:
        """Connect; returns the video stream, or raises SourceError (also when stop is set)."""
        self._thread.start()
        deadline = time.monotonic() + 2 * self._timeout_s + 1
        with self._changed:
            while self._stream is None and self._error is None:
                if stop.is_set() or time.monotonic() > deadline:
                    self._hang_up.set()
                    raise SourceError(f"cannot open {self._shown}: gave up waiting")
                heartbeat.beat()  # this wait has an end: it is no hang
                self._changed.wait(0.1)
            if self._stream is None:
                assert self._error is not None
                raise self._error
            return self._stream

    def get(self, timeout_s: float) -> Arrival | None:
        """Return the next packet, None after the timeout.

        Raises:
            SourceLostError: the stream has ended and all its packets were taken.
        """
        with self._changed:
            if not self._queue and self._error is None:
                self._changed.wait(timeout_s)
            if self._queue:
                return self._queue.popleft()
            if self._error is not None:
                raise SourceLostError(str(self._error))
            return None

    def waiting(self) -> int:
        """Return how many packets wait."""
        with self._changed:
            return len(self._queue)

    def close(self) -> None:
        """Stop reading; the thread ends by itself, at the latest when its read times out."""
        self._hang_up.set()
        with self._changed:
            self._queue.clear()
        self._thread.join(0.2)

    def _run(self) -> None:
        container = None
        error: SourceError
        try:
            container, stream = open_video(
                self._url, shown=self._shown, options=self._options, timeout_s=self._timeout_s
            )
            with self._changed:
                self._stream = stream
                self._changed.notify_all()
            opened = time.monotonic()
            limit = _INTRA_LIMIT if stream.codec_context.name in INTRA_CODECS else _INTER_LIMIT
            metronome = Metronome(stream) if _comes_in_bursts(container) else None
            for packet in packets(container, stream):
                if metronome is not None:
                    self._hang_up.wait(metronome.wait_s(packet, time.monotonic()))
                if self._hang_up.is_set():
                    break
                if time.monotonic() - opened > _KEY_FRAME_PATIENCE_S:
                    self._need_key_frame = False  # some streams refresh without key frames
                    opened = float("inf")
                self._arrived(packet, limit)
            error = SourceError(f"{self._shown}: the stream has ended")
        except SourceError as cannot_open:
            error = cannot_open
        except (av.FFmpegError, OSError) as broken:
            error = SourceError(f"{self._shown}: {explain(broken)}")
        with self._changed:
            self._error = error
            self._changed.notify_all()
        if container is not None:
            # Not before the consumer has let go: it may be reading the stream, which is freed with the container.
            self._hang_up.wait()
            container.close()

    def _arrived(self, packet: av.Packet[VideoStream], limit: int) -> None:
        now, unix = time.monotonic_ns(), time.time_ns()
        with self._changed:
            if len(self._queue) >= limit:
                if limit == _INTRA_LIMIT:
                    self._queue.popleft()
                else:
                    self._queue.clear()
                    self._need_key_frame = self._restart = True
            if self._need_key_frame and not packet.is_keyframe:
                self._index += 1 if self._restart else 0
                return
            self._need_key_frame = False
            self._queue.append(Arrival(packet, self._index, now, unix, self._restart))
            self._index += 1
            self._restart = False
            self._changed.notify_all()
