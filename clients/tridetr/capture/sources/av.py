"""Code shared by the PyAV sources: opening a container, and error messages with a remedy."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import av
import av.error
import av.logging

from tridetr.capture.sources.base import LoginRefusedError, StreamFacts
from tridetr.capture.sources.duplicate import LONGEST_COPIES, has_duplicate
from tridetr.capture.sources.metronome import Metronome
from tridetr.capture.sources.playlist import PlaylistParts
from tridetr.capture.sources.tls import TLS_REMEDY
from tridetr.errors import SourceError
from tridetr.shm.frames.frame_table import MAX_SIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

    from tridetr.capture.sources.http_camera import LiveStream
    from tridetr.capture.sources.late_stream import LateStream

_CROPPED = 64  # most rows and columns that a coded picture has more than the shown one
_REDIRECT = re.compile(r"Redirecting to (.+)")  # FFmpeg's message of level INFO
# FFmpeg's messages for a gap in the sequence numbers, and for numbers that go back
_GAP = re.compile(r"RTP: missed (\d+) packets|RTP: dropping old packet")
_MOST_LOST = 500  # packets; a larger gap is none
_GUESSED = "Estimating duration from bitrate"  # and the length, which can be a camera's dummy
_PROBED_S = 1.5  # at most of the stream is read while it is opened
_CODEC_CHECK_S = 2.0  # interval; a check takes 0.1 ms
# Formats whose demuxer or parser holds up to two packets back until the next one begins, or until reading ends
_HOLDING_FORMATS = {"h264", "hevc", "mpegts", "rtsp"}
_HOLDS = 2
_HELD_S = 2.0  # packets that come out after such a wait had arrived before it
_NO_VIDEO_FORMATS = {"tty"}  # FFmpeg reads text files as animated terminal art
_REMEDIES: tuple[tuple[type[Exception], str], ...] = (
    (
        av.error.FileNotFoundError,
        "check the path (relative paths start at the configuration's folder)",
    ),
    (av.error.IsADirectoryError, "name a video file, not a folder"),
    (av.error.PermissionError, "give the user that runs tridetr permission to read it"),
    (av.error.InvalidDataError, "no video in a format that FFmpeg supports, or damaged"),
    (av.error.ConnectionRefusedError, "is the camera on, and are host and port right?"),
    (av.error.HTTPUnauthorizedError, "login refused: correct credentials_file"),
    (av.error.HTTPForbiddenError, "login refused: correct credentials_file"),
    (av.error.HTTPNotFoundError, "check the path of the URL in the camera's manual"),
    (av.error.ExitError, "no answer; are the camera and the network up?"),
    (av.error.TimeoutError, "no answer; are the camera and the network up?"),
)
# FFmpeg's log messages that explain more than its error code
_LOGGED: tuple[tuple[str, str], ...] = (
    ("certificate", f"its certificate is not trusted; {TLS_REMEDY}"),
    ("461 (", "the camera does not send RTSP over TCP; set rtsp_transport: udp"),
    ("PLAY failed: 45", "no video in it, perhaps audio only; check the path of the URL"),
)


def open_video(
    url: str,
    *,
    shown: str,
    options: dict[str, str],
    timeout_s: float | tuple[float, float] | None,
    parts: Callable[[str, int, dict[str, str]], object] | None = None,
    noticed: Callable[[str], None] | None = None,
) -> tuple[InputContainer, VideoStream]:
    """Open a file or stream and find its video.

    Args:
        url: What FFmpeg opens; may contain a password.
        shown: The same without the password, for messages.
        options: FFmpeg's options for the container.
        timeout_s: For opening and for each read, or for either [s]; None for no limit (local files).
        parts: Opens the parts of a playlist, or the stream itself; None to let FFmpeg open them.
        noticed: Called with each message that FFmpeg logs meanwhile; raises SourceError to refuse the stream.

    Raises:
        LoginRefusedError: The camera does not accept user and password.
        SourceError: It cannot be opened or contains no video.
    """
    container = None
    with log_captured(av.logging.INFO) as logged:
        try:
            container = av.open(url, options=options, timeout=timeout_s, io_open=parts)
        except (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError) as error:
            code = 401 if isinstance(error, av.error.HTTPUnauthorizedError) else 403
            raise LoginRefusedError(shown, code, bool(urlsplit(url).password)) from None
        except (av.FFmpegError, OSError, ValueError) as error:
            lines = " ".join(text for level, _, text in logged if level <= av.logging.ERROR)
            why = next((remedy for word, remedy in _LOGGED if word in lines), explain(error))
            raise SourceError(f"cannot open {shown}: {why}") from None
        finally:
            try:
                if noticed is not None:
                    for _, _, text in logged:
                        noticed(text)
            except SourceError:
                if container is not None:
                    container.close()
                raise
    if container.format.name in _NO_VIDEO_FORMATS or not container.streams.video:
        found = container.format.long_name
        container.close()
        raise SourceError(f"cannot open {shown}: there is no video in it ({found})")
    best = cast("VideoStream | None", container.streams.best("video"))
    return container, best if best is not None else container.streams.video[0]


_logging_lock = threading.Lock()
_levels: list[int] = []  # of those who capture; FFmpeg has one level for all threads
logging.getLogger("libav").setLevel(logging.CRITICAL)  # the captured messages are enough
av.logging.set_skip_repeated(False)  # each attempt fails for the same reason


@contextlib.contextmanager
def log_captured(level: int) -> Iterator[list[tuple[int, str, str]]]:
    """Capture what FFmpeg logs in this thread, up to a level; several threads may do so."""
    with _logging_lock:
        _levels.append(level)
        av.logging.set_level(max(_levels))
    try:
        with av.logging.Capture() as logged:
            yield logged
    finally:
        with _logging_lock:
            _levels.remove(level)
            av.logging.set_level(max(_levels, default=None))


def _current_codec(container: InputContainer, stream: VideoStream) -> str | None:
    """Return the codec that a container announces by now; `stream` keeps the one from when it was opened."""
    with log_captured(av.logging.INFO):  # FFmpeg describes streams in its log only
        text: str = container.dumps_format()  # type: ignore[attr-defined]  # missing in PyAV's stubs
    found = re.search(rf"Stream #\d+:{stream.index}\b[^:\n]*: Video: (\w+)", text)
    return found[1] if found else None


class FfmpegFeed:
    """A stream that FFmpeg reads."""

    def __init__(
        self,
        url: str,
        shown: str,
        options: dict[str, str],
        timeout_s: float,
        parts: PlaylistParts | LiveStream | None = None,
        redirected: Callable[[str], None] | None = None,
        *,
        is_file: bool = False,
        is_udp: bool = False,
        opening_s: float | None = None,
        watch: LateStream | None = None,
    ) -> None:
        """Connect (see `open_video`).

        Args:
            url: What FFmpeg opens; may contain a password.
            shown: The same without the password, for messages.
            options: FFmpeg's options for the container.
            timeout_s: For each read, and for opening [s].
            parts: Opens the parts of a playlist, or the stream itself; None to let FFmpeg open them.
            redirected: Called with each URL that FFmpeg was redirected to over RTSP; raises SourceError to refuse it.
            is_file: Whether it may be a recording, which the server sends as fast as it is read.
            is_udp: Whether it comes over UDP, so that packets may arrive late or more than once.
            opening_s: For opening, if not `timeout_s` [s].
            watch: Finds out whether the packets are late; raises SourceError if they are.
        """
        self._is_udp = is_udp
        self._watch = watch
        self._playlist = parts if isinstance(parts, PlaylistParts) else None
        # Time and last bytes of the newest packet; over UDP only
        self._picture: tuple[int | None, bytes] = None, b""
        self._redirected = redirected
        self._is_duration_guessed = False
        self._is_damaged = False  # the next packet
        self.misnumbered = 0
        self._missed = 0  # packets that may still arrive, too late
        self._container, stream = open_video(
            url,
            shown=shown,
            options=options,
            timeout_s=(opening_s or timeout_s, timeout_s),
            parts=parts,
            noticed=self._notice,
        )
        self._is_probe_damaged, self._is_damaged = self._is_damaged, False
        self._shown = shown
        self._timeout_s = timeout_s
        self._stream = stream
        self.stream: VideoStream | None = stream
        self.held_s = 0.0
        codec = stream.codec_context.name
        self.facts = StreamFacts(codec, stream.width, stream.height, frame_rate(stream))
        self.metronome = self._pacing(is_file)

    def _pacing(self, is_file: bool) -> Metronome | None:
        """Return what spreads the packets out, if the server sends them faster than in real time; None for a camera.

        A camera whose timestamps run faster than the clock, or jump, would be read later and later: its packets would
        wait in the buffers of the network, without any age. A duration alone proves nothing: live FLV has one (0), and
        so has RTSP with a range.
        """
        playlist = self._playlist
        if playlist is not None and self._container.format.name == "hls":
            return Metronome(self._stream.time_base, lambda: playlist.is_behind)
        is_finite = (self._container.duration or 0) > 0 and not self._is_duration_guessed
        return Metronome(self._stream.time_base) if is_file and is_finite else None

    def packets(self, hang_up: threading.Event) -> Iterator[av.Packet[VideoStream]]:
        """Yield the packets until the stream ends or `hang_up` is set.

        Raises:
            FFmpegError: The container is damaged, or the connection failed.
            LoginError: User and password were refused for a part of the playlist.
            SourceError: Its data or its video has stopped, or the camera changed the codec of its MPEG-TS stream.
        """
        try:
            yield from self._read(hang_up)
        finally:
            if self._playlist is not None and not hang_up.is_set():
                self._playlist.check()

    def _read(self, hang_up: threading.Event) -> Iterator[av.Packet[VideoStream]]:
        changes = self._container.format.name == "mpegts"
        # Where each segment of HLS counts its MPEG-TS packets from zero, FFmpeg takes that for a loss
        trusted = self._container.format.name != "hls"
        holds = (
            self._container.format.name in _HOLDING_FORMATS
            and self._stream.codec_context.name != "mjpeg"
        )
        held, arrived_s = 0, 0.0
        checked_s = video_s = time.monotonic()
        # Of all its streams: while only audio arrives, no read times out
        with log_captured(av.logging.WARNING) as logged, contextlib.ExitStack() as finally_:
            finally_.callback(logged.clear)  # PyAV keeps it in a reference cycle
            for packet, waited_s in _with_waits(_packets(self._container, ())):
                if hang_up.is_set():
                    return
                if waited_s >= self._timeout_s:
                    # FFmpeg gave up, and returns what it held back: a picture from before the wait
                    raise SourceError(
                        f"{self._shown}: no data for {self._timeout_s:g} s; are the camera and the network up?"
                    )
                if packet.stream_index != self._stream.index:
                    if time.monotonic() - video_s > self._timeout_s:
                        raise SourceError(
                            f"{self._shown}: no video for {self._timeout_s:g} s, although audio arrives"
                        )
                    continue
                if holds and waited_s >= _HELD_S:
                    held, arrived_s = _HOLDS, time.monotonic() - waited_s
                self.held_s = time.monotonic() - arrived_s if held else 0.0
                held = max(0, held - 1)
                for _, _, text in logged:
                    self._notice(text)
                logged.clear()
                if not trusted:
                    packet.is_corrupt = False
                # The packet that is returned after a gap is the one with the gap, or the one before
                if (
                    self._is_damaged
                    or (self._is_probe_damaged and self._was_probed(packet))
                    or (self._is_udp and self._is_repeated(packet))
                ):
                    packet.is_corrupt = True
                self._is_damaged = False
                video = cast("av.Packet[VideoStream]", packet)
                if self._watch is not None:
                    self._watch.packet(video)
                yield video
                video_s = time.monotonic()
                if changes and video_s - checked_s >= _CODEC_CHECK_S:
                    checked_s = video_s
                    codec = _current_codec(self._container, self._stream)
                    if codec not in (None, self.facts.codec):
                        raise SourceError(
                            f"{self._shown}: the stream changed from {self.facts.codec} to {codec}; connecting again"
                        )

    def _was_probed(self, packet: av.Packet[Stream]) -> bool:
        """Return whether a packet can be one of those that were read while the stream was opened."""
        if packet.pts is None:
            return True
        since_start = packet.pts - (self._stream.start_time or 0)
        return bool(since_start * packet.time_base <= _PROBED_S)

    def _is_repeated(self, packet: av.Packet[Stream]) -> bool:
        """Return whether the network has delivered a part of a picture more than once."""
        # The copy of a picture's start begins a packet of its own
        pts, before = self._picture
        is_same = packet.pts is not None and packet.pts == pts
        data = before + bytes(packet) if is_same else bytes(packet)
        self._picture = packet.pts, data[-LONGEST_COPIES:]
        return has_duplicate(data)

    def _notice(self, logged: str) -> None:
        """Take in a message that FFmpeg has logged."""
        if gap := _GAP.search(logged):
            if gap[1] is None and self._is_udp:
                return  # too late or a copy; if one is missing, the gap was logged before
            self._is_damaged = True
            missed = int(gap[1] or -1)
            if missed > _MOST_LOST or self._missed + missed < 0:
                self.misnumbered += 1
            else:
                self._missed += missed
        elif _GUESSED in logged:
            self._is_duration_guessed = True
        elif self._redirected is not None and (target := _REDIRECT.search(logged)):
            self._redirected(target[1])

    def close(self) -> None:
        """Free the container, and the stream with it."""
        if self._watch is not None:
            self._watch.close()
        self._container.close()


def _with_waits(
    packets: Iterator[av.Packet[Stream]],
) -> Iterator[tuple[av.Packet[Stream], float]]:
    """Yield packets with how long FFmpeg took to return each [s]."""
    asked_s = time.monotonic()
    for packet in packets:
        yield packet, time.monotonic() - asked_s
        asked_s = time.monotonic()


def packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    """Yield the packets of a stream that are not empty.

    Raises:
        FFmpegError: The container is damaged, or the connection failed.
    """
    return cast("Iterator[av.Packet[VideoStream]]", _packets(container, (stream,)))


def _packets(
    container: InputContainer, streams: tuple[VideoStream, ...]
) -> Iterator[av.Packet[Stream]]:
    """Yield the packets of some streams, or of all without any, that are not empty."""
    while True:
        try:
            for packet in container.demux(*streams):
                if packet.size:
                    yield packet
            return
        except IndexError:
            # Damaged MPEG-TS announces streams that PyAV did not see when it opened the container
            continue


def explain(error: Exception) -> str:
    """Return cause and remedy of an FFmpeg error, without the URL (it may contain a password)."""
    cause = getattr(error, "strerror", None) or type(error).__name__
    for kind, remedy in _REMEDIES:
        if isinstance(error, kind):
            return f"{cause}; {remedy}"
    return str(cause)


def decoder_options(max_pixels: int) -> dict[str, str]:
    """Return FFmpeg's options for decoders that must not allocate larger pictures."""
    return {"max_pixels": str(max_pixels + 2 * MAX_SIDE * _CROPPED)}


def frame_rate(stream: VideoStream) -> float:
    """Return the stream's frames per second; 0.0 if unknown or implausible."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate is not None and 0 < rate <= 1000:
            return float(rate)
    return 0.0
