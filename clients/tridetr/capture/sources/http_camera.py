"""HTTP cameras that send JPEGs: multipart streams, well-formed or not, and URLs that return a single picture.

FFmpeg reads all other streams (MPEG-TS, HLS, FLV, files); `open_http` finds out which kind a URL is.
"""

from __future__ import annotations

import errno
import http.client
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

import av

from tridetr.capture.sources.base import LoginRefusedError, StreamFacts
from tridetr.capture.sources.jpeg_splitter import JpegSplitter
from tridetr.capture.sources.tls import TLS_REMEDY
from tridetr.errors import SourceError
from tridetr.hang_up import HangUp, PlainConnection, TlsConnection

if TYPE_CHECKING:
    from av.video.stream import VideoStream

_CHUNK = 1 << 16
_SNIFF_BYTES = 8
_PLAYLIST_BYTES = 1 << 20
_POLL_FPS = 5.0  # requests to a URL of a single picture, if the configuration sets no rate
_VARIANT = re.compile(
    rb"#EXT-X-STREAM-INF:([^\r\n]*)[\r\n]+(?:#[^\r\n]*[\r\n]+)*([^#\r\n][^\r\n]*)"
)


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """URL of an HTTP camera, and how to connect to it.

    Attributes:
        url: URL without user and password, unless path or query contain them; never shown.
        shown: URL for messages.
        login: User and password for Basic or Digest authentication.
        tls: How to verify https.
        timeout_s: Timeout of each read [s].
        hang_up: Once set, ends a read in progress.
    """

    url: str
    shown: str
    login: tuple[str, str] | None
    tls: ssl.SSLContext | None
    timeout_s: float
    hang_up: HangUp


def http_address(
    url: str, shown: str, tls: ssl.SSLContext | None, timeout_s: float, hang_up: HangUp
) -> HttpAddress:
    """Return the address of a URL that may hold `user:password@`."""
    parts = urlsplit(url)
    user_info, _, host = parts.netloc.rpartition("@")
    user, _, password = user_info.partition(":")
    login = (unquote(user), unquote(password)) if password else None
    bare = urlunsplit(parts._replace(netloc=host))
    return HttpAddress(bare, shown, login, tls, timeout_s, hang_up)


class JpegFeed:
    """A connection that yields JPEGs; made by `open_http`."""

    stream: VideoStream | None = None
    bursts = False

    def __init__(
        self, address: HttpAddress, response: http.client.HTTPResponse, start: bytes, fps: float
    ) -> None:
        """Wait for the first JPEG.

        Args:
            address: Where to request further pictures from a camera that sends one per request.
            response: The camera's response.
            start: The bytes already read from it.
            fps: Requests per second to such a camera.

        Raises:
            SourceError: No JPEG arrived within the address's timeout.
        """
        self._address = address
        self._response = response
        self._poll_s = 1 / fps
        self._splitter = _splitter(response)
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

    def packets(self, hang_up: threading.Event) -> Iterator[av.Packet[VideoStream]]:
        """Yield the JPEGs until the stream ends or breaks.

        Raises:
            SourceError: A URL of a single picture does not respond any more.
            OSError: The connection broke.
        """
        if self._first is not None:
            yield _packet(self._first)
            self._first = None
        while not hang_up.is_set():
            for jpeg in self._jpegs:
                yield _packet(jpeg)
            if self._in_response != 1:
                return
            hang_up.wait(max(0.0, self._asked_s + self._poll_s - time.monotonic()))
            self._ask()

    def close(self) -> None:
        """Close the connection."""
        self._response.close()

    def _ask(self) -> None:
        self._response.close()
        self._asked_s = time.monotonic()
        self._response = get(self._address)
        self._splitter = _splitter(self._response)
        self._in_response = 0
        self._jpegs = self._read(b"")

    def _read(self, data: bytes) -> Iterator[bytes]:
        while True:
            for jpeg in self._splitter.feed(data):
                self._in_response += 1
                yield jpeg
            try:
                data = self._response.read1(_CHUNK)
            except http.client.HTTPException as error:
                raise OSError(f"broken HTTP: {type(error).__name__}") from None
            if time.monotonic() > self._give_up_s:
                return
            if not data:
                for jpeg in self._splitter.flush():
                    self._in_response += 1
                    yield jpeg
                return


@dataclass(frozen=True, slots=True)
class FfmpegTask:
    """A URL for FFmpeg to open.

    Attributes:
        url: URL with user and password.
        parts: Opens the parts of a playlist, for which FFmpeg drops its TLS options; None if it is not a playlist.
    """

    url: str
    parts: Callable[[str, int, dict[str, str]], HttpPart] | None = None


class HttpPart:
    """A part of a playlist, as a file-like object for FFmpeg."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response

    def read(self, size: int) -> bytes:
        return self._response.read(size)

    def close(self) -> None:
        self._response.close()


def open_http(address: HttpAddress, fps: float | None) -> JpegFeed | FfmpegTask:
    """Connect to an HTTP camera and return its JPEGs, or a URL for FFmpeg to open.

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
    except (OSError, http.client.HTTPException) as error:
        response.close()
        raise SourceError(f"cannot open {address.shown}: {cause(error)}") from None
    if kind.startswith("multipart/") or kind == "image/jpeg" or _has_jpeg(kind, start):
        return JpegFeed(address, response, start, fps or _POLL_FPS)
    if kind == "text/html":
        response.close()
        raise SourceError(
            f"cannot open {address.shown}: it is a web page, not a stream; check the path of the URL "
            "in the camera's manual"
        )
    if start.lstrip(b"\xef\xbb\xbf").startswith(b"#EXTM3U"):
        try:
            playlist = start + response.read(_PLAYLIST_BYTES)
        except (OSError, http.client.HTTPException) as error:
            response.close()
            raise SourceError(f"cannot open {address.shown}: {cause(error)}") from None
        variant = best_variant(playlist)
        response.close()
        url = urljoin(response.geturl(), variant) if variant else address.url
        return FfmpegTask(_with_login(address, url), lambda url, *_: _open_part(address, url))
    response.close()
    return FfmpegTask(_with_login(address, address.url))


def best_variant(playlist: bytes) -> str | None:
    r"""Return the URL of the best variant of an HLS master playlist; None for a media playlist.

    >>> best_variant(b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9,RESOLUTION=64x48\na.m3u8\n")
    'a.m3u8'
    """
    best: tuple[int, int] | None = None
    url = None
    for attributes, name in _VARIANT.findall(playlist):
        size = re.search(rb"RESOLUTION=(\d{1,5})x(\d{1,5})", attributes)
        rate = re.search(rb"(?<![A-Z-])BANDWIDTH=(\d{1,12})", attributes)
        rank = (int(size[1]) * int(size[2]) if size else 0, int(rate[1]) if rate else 0)
        if best is None or rank > best:
            best, url = rank, name.decode(errors="replace").strip()
    return url


def get(address: HttpAddress) -> http.client.HTTPResponse:
    """Send a GET request, ignoring the environment's proxies.

    Raises:
        LoginRefusedError: It does not accept user and password.
        SourceError: The request failed.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Http(address.hang_up),
        _Https(address.hang_up, address.tls),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    if address.login is not None:
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        # For this host only, not for the target of a redirect
        root = urlunsplit(urlsplit(address.url)._replace(path="/", query="", fragment=""))
        passwords.add_password(None, root, *address.login)
        opener.add_handler(_DigestOnce(passwords))
        opener.add_handler(_BasicOnce(passwords))
    request = urllib.request.Request(address.url, headers={"User-Agent": "tridetr"})  # noqa: S310
    try:
        return cast(http.client.HTTPResponse, opener.open(request, timeout=address.timeout_s))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise LoginRefusedError(address.shown, error.code, address.login is not None) from None
        raise SourceError(
            f"cannot open {address.shown}: HTTP {error.code}; check the path of the URL in the "
            "camera's manual"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SourceError(f"cannot open {address.shown}: {cause(error)}") from None


def cause(error: Exception) -> str:
    """Return cause and remedy of a failed request, without the URL."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({reason.verify_message}); {TLS_REMEDY}"
    if isinstance(reason, TimeoutError):
        return "no answer; are the camera and the network up?"
    if isinstance(reason, ConnectionRefusedError):
        return "connection refused; is the camera on, and are host and port right?"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return f"the answer is not HTTP ({type(reason).__name__})"


def _open_part(address: HttpAddress, url: str) -> HttpPart:
    ours, theirs = urlsplit(address.url), urlsplit(url)
    host = theirs.netloc.rpartition("@")[2]
    same = (ours.scheme, ours.netloc) == (theirs.scheme, host)
    bare = urlunsplit(theirs._replace(netloc=host))
    try:
        return HttpPart(get(replace(address, url=bare, login=address.login if same else None)))
    except SourceError as error:
        raise OSError(errno.EIO, str(error)) from None


def _with_login(address: HttpAddress, url: str) -> str:
    """Add user and password to a URL, unless it is on another host."""
    ours, theirs = urlsplit(address.url), urlsplit(url)
    if address.login is None or (ours.scheme, ours.netloc) != (theirs.scheme, theirs.netloc):
        return url
    user, password = (quote(word, safe="") for word in address.login)
    return urlunsplit(theirs._replace(netloc=f"{user}:{password}@{theirs.netloc}"))


class _Http(urllib.request.HTTPHandler):
    def __init__(self, hang_up: HangUp) -> None:
        super().__init__()
        self._connection = partial(PlainConnection, hang_up=hang_up)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, hang_up: HangUp, tls: ssl.SSLContext | None) -> None:
        super().__init__()
        tls = tls or ssl.create_default_context()
        self._connection = partial(TlsConnection, hang_up=hang_up, tls=tls)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)


class _DigestOnce(urllib.request.HTTPDigestAuthHandler):
    """Sends the password once: cameras lock an account after some failures."""

    def http_error_401(self, req, fp, code, msg, headers):  # type: ignore[no-untyped-def]
        if req.has_header(self.auth_header):
            return None
        return super().http_error_401(req, fp, code, msg, headers)


class _BasicOnce(urllib.request.HTTPBasicAuthHandler):
    """Sends the password once, and not after Digest has failed."""

    def http_error_401(self, req, fp, code, msg, headers):  # type: ignore[no-untyped-def]
        if req.has_header(self.auth_header):
            return None
        return super().http_error_401(req, fp, code, msg, headers)


def _type(response: http.client.HTTPResponse) -> str:
    return response.headers.get_content_type() if response.headers.get("Content-Type") else ""


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
