"""HTTP cameras that send JPEGs: multipart streams, well-formed or not, and URLs that return a single picture.

FFmpeg decodes all other streams (MPEG-TS, HLS, FLV, files); `open_http` finds out which kind a URL is.
"""

from __future__ import annotations

import errno
import http.client
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import av

from tridetr.capture.sources.base import LoginError, StreamFacts
from tridetr.capture.sources.http_request import HttpAddress, HttpBody, cause, get, read_some
from tridetr.capture.sources.jpeg_splitter import JpegSplitter
from tridetr.capture.sources.lateness import Comparison, Lateness, LinkLoad
from tridetr.capture.sources.metronome import Metronome
from tridetr.capture.sources.playlist import (
    PLAYLIST_BYTES,
    PlayedSegments,
    PlaylistParts,
    best_variant,
)
from tridetr.errors import SourceError
from tridetr.foreign_text import printable
from tridetr.hang_up import HangUp

if TYPE_CHECKING:
    from av.video.stream import VideoStream

_CHUNK = 1 << 16
_SNIFF_BYTES = 8
_TYPE_LENGTH = 60
_REOPEN_PAUSES_S = (0.0, 0.3, 1.0)  # before each attempt: a server may still count the old one
_POLL_FPS = 5.0  # requests to a URL of a single picture, if the configuration sets no rate


class JpegFeed:
    """A connection that yields JPEGs; made by `open_http`."""

    stream: VideoStream | None = None
    metronome: Metronome | None = None
    held_s = 0.0
    misnumbered = 0

    def __init__(
        self,
        address: HttpAddress,
        response: http.client.HTTPResponse,
        start: bytes,
        fps: float,
        lateness: Lateness | None = None,
    ) -> None:
        """Wait for the first JPEG.

        Args:
            address: Where to request further pictures from a camera that sends one per request.
            response: The camera's response.
            start: The bytes already read from it.
            fps: Requests per second to such a camera.
            lateness: Finds out whether the pictures are late; None = nobody wants to know.

        Raises:
            SourceError: No JPEG arrived within the address's timeout.
        """
        self._address = address
        self._response = response
        self._poll_s = 1 / fps
        self._splitter = _splitter(response)
        self._load = LinkLoad()  # of this response
        self._in_response = 0  # JPEGs of this response
        self._asked_s = time.monotonic()
        self._give_up_s = self._asked_s + address.timeout_s
        self._jpegs = self._read(start)
        self._first = next(self._jpegs, None)
        self._give_up_s = float("inf")
        if self._first is None:
            response.close()
            raise SourceError(
                f"cannot open {address.shown}: no JPEG in the response ({_type(response)}); "
                "check the path of the URL in the camera's manual"
            )
        width, height = self._splitter.size
        self.facts = StreamFacts("mjpeg", width, height, 0.0)
        self._comparison: Comparison | None = None
        if lateness is not None:
            self._comparison = Comparison(
                lateness, self._read_apart, address.shown, 2 * address.timeout_s
            )

    def packets(self, hang_up: threading.Event) -> Iterator[av.Packet[VideoStream]]:
        """Yield the JPEGs until the stream ends or breaks.

        Raises:
            SourceError: The camera does not respond any more, or its HTTP is broken.
            OSError: The connection broke.
        """
        if self._first is not None:
            yield _packet(self._first)
            self._first = None
        while not hang_up.is_set():
            for jpeg in self._jpegs:
                yield _packet(jpeg)
                if self._comparison is not None and self._is_late(jpeg, self._comparison):
                    self._reopen(hang_up, self._comparison.known)
                    break
            else:
                if self._in_response != 1:
                    return
                hang_up.wait(max(0.0, self._asked_s + self._poll_s - time.monotonic()))
                self._ask()

    def close(self) -> None:
        """Close the connection."""
        self._response.close()
        if self._comparison is not None:
            self._comparison.close()

    def _is_late(self, jpeg: bytes, comparison: Comparison) -> bool:
        now_s = time.monotonic()
        return comparison.is_late(jpeg, now_s, is_full=self._load.picture(now_s))

    def _read_apart(self, hang_up: HangUp) -> Generator[bytes, None, None]:
        """Yield the JPEGs of another connection."""
        address = replace(self._address, hang_up=hang_up)
        with get(address) as response:
            feed = JpegFeed(address, response, b"", _POLL_FPS)
            assert feed._first is not None
            yield feed._first
            yield from feed._jpegs

    def _reopen(self, hang_up: threading.Event, lateness: Lateness) -> None:
        """Connect again, without the pictures that are stored for the connection.

        Raises:
            SourceError: The camera does not answer as before.
        """
        for pause_s in _REOPEN_PAUSES_S:
            hang_up.wait(pause_s)
            try:
                self._ask()
                lateness.connected(time.monotonic())
                return
            except LoginError:
                lateness.forbid()
                raise
            except SourceError:
                if pause_s == _REOPEN_PAUSES_S[-1] or hang_up.is_set():
                    raise

    def _ask(self) -> None:
        self._response.close()
        self._asked_s = time.monotonic()
        self._response = get(self._address)
        self._splitter = _splitter(self._response)
        self._load = LinkLoad()
        self._in_response = 0
        self._jpegs = self._read(b"")

    def _read(self, data: bytes) -> Iterator[bytes]:
        while True:
            for jpeg in self._splitter.feed(data):
                self._in_response += 1
                yield jpeg
            is_inside, asked_s = self._splitter.is_inside, time.monotonic()
            data = read_some(self._address, self._response, _CHUNK)
            self._load.waited(time.monotonic() - asked_s, inside=is_inside)
            if time.monotonic() > self._give_up_s:
                return
            if not data:
                for jpeg in self._splitter.flush():
                    self._in_response += 1
                    yield jpeg
                return


class LiveStream:
    """A response that FFmpeg reads through our connection, which can be ended at any point.

    PyAV drops the packets of streams that were added since the start, such as those of a new PID in MPEG-TS, inside a
    call that returns only with a packet of another stream: no timeout ends it.
    """

    def __init__(self, url: str, body: HttpBody) -> None:
        self._url = url
        self._body = body

    def __call__(self, url: str, *_: object) -> HttpBody:
        """Return the response; the argument of `av.open(io_open=...)`.

        Raises:
            OSError: FFmpeg asks for another URL, which the stream contains.
        """
        if url != self._url:
            raise OSError(errno.EPERM, "it contains another URL")
        return self._body


@dataclass(frozen=True, slots=True)
class FfmpegTask:
    """A URL for FFmpeg to open.

    Attributes:
        url: URL with user and password.
        parts: Opens the parts of a playlist, for which FFmpeg drops its TLS options, or a live stream; None for a
            body of known length, perhaps a file: FFmpeg opens it by itself, so that it can seek.
    """

    url: str
    parts: PlaylistParts | LiveStream | None = None


def open_http(
    address: HttpAddress,
    fps: float | None,
    played: PlayedSegments,
    lateness: Lateness | None = None,
) -> JpegFeed | FfmpegTask:
    """Connect to an HTTP camera and return its JPEGs, or a URL for FFmpeg to open.

    Args:
        address: Its URL.
        fps: Requests per second to a camera that sends one picture per request; None for the default.
        played: What earlier connections played, if it is a playlist.
        lateness: Finds out whether JPEGs are late.

    Raises:
        LoginRefusedError: It does not accept user and password.
        SourceError: It cannot be reached, or sends nothing usable.
    """
    response = get(address)
    kind = _type(response)
    try:
        start = response.read1(_CHUNK)
        while 0 < len(start.strip()) < _SNIFF_BYTES and (more := response.read1(_CHUNK)):
            start += more
        is_playlist = start.lstrip(b"\xef\xbb\xbf").startswith(b"#EXTM3U")
        if is_playlist:
            start += response.read(PLAYLIST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        response.close()
        raise SourceError(f"cannot open {address.shown}: {cause(error)}") from None
    if kind.startswith("multipart/") or kind == "image/jpeg" or _has_jpeg(kind, start):
        return JpegFeed(address, response, start, fps or _POLL_FPS, lateness)
    if kind == "text/html":
        response.close()
        raise SourceError(
            f"cannot open {address.shown}: it is a web page, not a stream; check the path of the URL "
            "in the camera's manual"
        )
    if is_playlist:
        variant = best_variant(start)
        response.close()
        try:
            url = urljoin(response.geturl(), variant) if variant else address.url
            parts = PlaylistParts(address, played)
            return FfmpegTask(_with_login(address, parts.wait_for_news(url)), parts)
        except ValueError:
            raise SourceError(
                f"cannot open {address.shown}: its playlist contains an invalid URL"
            ) from None
    url = _with_login(address, address.url)
    if response.length is None:
        return FfmpegTask(url, LiveStream(url, HttpBody(address, response, start)))
    response.close()
    return FfmpegTask(_with_login(address, response.geturl()))


def _with_login(address: HttpAddress, url: str) -> str:
    """Add user and password to a URL, unless it is on another host."""
    ours, theirs = urlsplit(address.url), urlsplit(url)
    if address.login is None or (ours.scheme, ours.netloc) != (theirs.scheme, theirs.netloc):
        return url
    user, password = (quote(word, safe="") for word in address.login)
    return urlunsplit(theirs._replace(netloc=f"{user}:{password}@{theirs.netloc}"))


def _type(response: http.client.HTTPResponse) -> str:
    if not response.headers.get("Content-Type"):
        return ""
    return printable(response.headers.get_content_type(), _TYPE_LENGTH)


def _has_jpeg(kind: str, start: bytes) -> bool:
    # Without a reliable content type, only data that starts like a JPEG or a multipart boundary
    video = kind.startswith("video/") and "jpeg" not in kind
    return not video and (start.startswith(b"\xff\xd8\xff") or start.lstrip().startswith(b"--"))


def _splitter(response: http.client.HTTPResponse) -> JpegSplitter:
    boundary = (response.headers.get_boundary() or "").strip("-")
    return JpegSplitter(b"--" + boundary.encode("latin-1", "ignore") if boundary else b"")


def _packet(jpeg: bytes) -> av.Packet[VideoStream]:
    packet = cast("av.Packet[VideoStream]", av.Packet(jpeg))
    packet.is_keyframe = True
    return packet
