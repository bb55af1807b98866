"""HLS playlists: the best variant, their parts, which were played already, and how far behind a live one is read."""

from __future__ import annotations

import errno
import http.client
import re
import time
from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

from tridetr import boot_clock
from tridetr.capture.sources.base import LoginError, NoPictureYetError
from tridetr.capture.sources.http_request import HttpAddress, HttpBody, cause, get, refuse_unsafe
from tridetr.errors import SourceError

PLAYLIST_BYTES = 1 << 20
_START = b"#EXTM3U"
_END = "#EXT-X-ENDLIST"
_REFUSED = {
    re.compile(
        _END
    ): "has ended; was the encoder stopped? If it is a recording, download it and set source to the "
    "file",
    re.compile(
        "#EXT-X-BYTERANGE"
    ): "has all segments in one file; set the encoder to a file for each segment",
    re.compile(
        "#EXT-X-KEY:(?!METHOD=NONE)"
    ): "has encrypted segments; turn encryption off, or use RTSP",
}
_POLL_S = 0.5
_COMPARED_BYTES = 1 << 14  # of a segment: timestamps, and most of a key frame
_REMEMBERED = 1000  # segments
_BEHIND = 2  # segments of a live playlist after the one that is read; FFmpeg starts with as many
# How long a segment counts as live after it can have been listed first
_LIVE_S = 30.0
_LIVE_SEGMENTS = 3  # as many times the longest duration that the playlist gives, if that is longer
_LONGEST_S = 60.0  # of these durations
_NUMBER = re.compile(r"#EXT-X-MEDIA-SEQUENCE:\s*(\d{1,18})")  # of the first segment
_DURATION = re.compile(r"#EXT-X-TARGETDURATION:\s*(\d{1,9})")
_VARIANT = b"#EXT-X-STREAM-INF:"
_MAP = re.compile(r'#EXT-X-MAP:(?:.*,)?\s*URI=(?:"([^"]*)"|([^",\s]*))')


def best_variant(playlist: bytes) -> str | None:
    r"""Return the URL of the best variant of an HLS master playlist; None for a media playlist.

    >>> best_variant(b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9,RESOLUTION=64x48\na.m3u8\n")
    'a.m3u8'
    """
    best: tuple[int, int] | None = None
    url = attributes = None
    for line in playlist.splitlines():
        if attributes is None:
            attributes = line.partition(_VARIANT)[2] if _VARIANT in line else None
            continue
        if not line or line.startswith(b"#"):
            continue
        size = re.search(rb"RESOLUTION=(\d{1,5})x(\d{1,5})", attributes)
        rate = re.search(rb"(?<![A-Z-])BANDWIDTH=(\d{1,12})", attributes)
        rank = (int(size[1]) * int(size[2]) if size else 0, int(rate[1]) if rate else 0)
        if best is None or rank > best:
            best, url = rank, line.decode(errors="replace").strip()
        attributes = None
    return url


class PlayedSegments:
    """Remembers over all connections of a camera how its playlist looked last, and which segments were delivered.

    A web server goes on after its encoder has died: each new connection would play the last segments again. Delivered
    segments are recognised by their content, because an encoder that is started again can use the same numbers and
    names. The age of the others follows from when the playlist was last read without them.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._since = ""
        self._read_s = float("-inf")  # `boot_clock.now_ns` [s]
        # By number: earliest time at which a segment can have been listed first
        self._listed_s: dict[int, float] = {}
        self._numbers: dict[str, int] = {}  # by name, of the playlist's segments
        self._contents: dict[str, int] = {}  # hashes by name, of those of them that were opened
        # Names whose numbers are others than before, with the content that they had then; None is unknown
        self._renumbered: dict[str, int | None] = {}
        self._opened: dict[int, None] = {}  # hashes; of this connection
        self._played: dict[int, None] = {}

    def follow(self, lines: list[str]) -> list[float]:
        """Take in a playlist; return until when each of its segments counts as live (`boot_clock.now_ns` [s]).

        Args:
            lines: The playlist; comments, and queries (such as the key of a session), are ignored.
        """
        bare = [line.partition("?")[0] for line in lines]
        bare = [line for line in bare if line and (line[0] != "#" or line.startswith("#EXT"))]
        if bare != self._lines:
            self._lines, self._since = bare, time.strftime("%Y-%m-%d %H:%M:%S")
        first = _number(_NUMBER, lines) or 0  # none means 0 (RFC 8216)
        # Not by name, which can contain the key of a session
        names = _segments(lines)
        numbers = range(first, first + len(names))
        self._renumber(dict(zip(names, numbers, strict=True)))
        self._listed_s = {n: self._listed_s.get(n, self._read_s) for n in numbers}
        self._read_s = boot_clock.now_ns() / 1e9
        longest_s = min(_LONGEST_S, _number(_DURATION, lines) or 0)
        live_s = max(_LIVE_S, _LIVE_SEGMENTS * longest_s)
        return [listed_s + live_s for listed_s in self._listed_s.values()]

    def _renumber(self, numbers: dict[str, int]) -> None:
        """Notice that an encoder lists its old segments under new numbers.

        If a segment keeps its number, names are used again instead.
        """
        both = numbers.keys() & self._numbers.keys()
        kept = {name for name in both if numbers[name] == self._numbers[name]}
        self._renumbered = {name: self._renumbered[name] for name in kept & self._renumbered.keys()}
        if not kept:
            self._renumbered = {name: self._contents.get(name) for name in both}
        self._contents = {name: self._contents[name] for name in both & self._contents.keys()}
        self._numbers = numbers

    def is_new(self, lines: list[str]) -> bool:
        """Return whether a playlist differs from the one before, and a segment counts as live; see `follow`."""
        before = self._lines
        live_until_s = self.follow(lines)
        return before != self._lines and any(at_s >= self._read_s for at_s in live_until_s)

    def open(self, start: bytes, live_until_s: float, name: str) -> bool:
        """Return whether to deliver a segment.

        Args:
            start: Its first bytes.
            live_until_s: Until when it counts as live; see `follow`.
            name: Its name in the playlist.
        """
        picture = hash(start)
        is_same = name in self._renumbered and self._renumbered[name] in (None, picture)
        self._contents[name] = picture
        if is_same or boot_clock.now_ns() / 1e9 > live_until_s:
            self._played[picture] = None
        if picture in self._played or picture in self._opened:
            return False
        self._opened[picture] = None
        return True

    def close(self, delivered: bool) -> None:
        """End a connection, which delivered pictures of its segments or not."""
        opened, self._opened = self._opened, {}
        if delivered:
            self._played |= opened
        for picture in [*self._played][:-_REMEMBERED]:
            del self._played[picture]

    def stale(self, shown: str) -> NoPictureYetError:
        """Return the error for a playlist without a new segment."""
        return NoPictureYetError(
            f"cannot open {shown}: its playlist has had no new segment since {self._since}; does the encoder run?"
        )


class PlaylistParts:
    """Opens the parts of a playlist, for which FFmpeg drops its TLS options; the argument of `av.open(io_open=...)`."""

    def __init__(self, address: HttpAddress, played: PlayedSegments) -> None:
        self._address = address
        self._played = played
        self._opened = self._skipped = 0
        self._is_live = False
        # Normalised URLs of the segments, and of the init sections, of the playlist; None before it was read
        self._segments: list[str | None] | None = None
        self._names: list[str] = []  # of the segments, as they are written
        self._maps: set[str | None] = set()
        # The playlist that FFmpeg knows by where redirects led to, which may be valid for a while only
        self._asked: dict[str | None, str] = {}
        self._live_until_s: list[float] = []  # of each segment
        self._after = 0  # number of them after the one opened last
        self._formats: list[bytes] = []  # of the init section that was opened first
        self._failed: SourceError | None = None  # for good

    @property
    def is_behind(self) -> bool:
        """Whether a live playlist is read at a distance that should become shorter."""
        return self._is_live and self._after >= _BEHIND

    def check(self) -> None:
        """Explain why FFmpeg could not open the playlist, or could not go on.

        Raises:
            LoginError: User and password were refused for a part of it.
            SourceError: It goes on with another init section.
            NoPictureYetError: All its segments are old, or were delivered by earlier connections.
        """
        if self._failed is not None:
            raise self._failed
        if self._skipped and not self._opened:
            raise self._played.stale(self._address.shown)

    def wait_for_news(self, url: str) -> str:
        """Wait until the media playlist has a new segment since it was read last, by whatever connection.

        Args:
            url: URL of the playlist.

        Returns:
            Where redirects of this URL lead to: what the playlist names is relative to that.

        Raises:
            NoPictureYetError: It stays the same for the address's timeout.
            SourceError: It has ended, is too large, or cannot be read.
        """
        shown = self._address.shown
        until_s = time.monotonic() + self._address.timeout_s
        while True:
            try:
                response, start = self._get(url)
                self._asked = {_normalised(response.geturl()): url}
                with response:
                    if start != _START:
                        return response.geturl()  # FFmpeg reports what it is instead
                    start += response.read(PLAYLIST_BYTES)
                    if response.read(1):
                        raise SourceError(
                            f"cannot open {shown}: its playlist is larger than {PLAYLIST_BYTES >> 20} MiB; let the "
                            "encoder list only the newest segments (FFmpeg: -hls_list_size 20)"
                        )
                    lines = _lines(start)
            except (OSError, http.client.HTTPException) as error:
                raise SourceError(f"cannot open {shown}: {cause(error)}") from None
            for pattern, why in _REFUSED.items():
                if any(pattern.match(line) for line in lines):
                    raise SourceError(f"cannot open {shown}: its playlist {why}")
            if self._played.is_new(lines):
                return response.geturl()
            if time.monotonic() > until_s or self._address.hang_up.wait(_POLL_S):
                raise self._played.stale(shown)

    def __call__(self, url: str, *_: object) -> HttpBody:
        """Open a part; a segment that is old, or was delivered by an earlier connection, is empty.

        Raises:
            OSError: It cannot be opened.
        """
        try:
            if self._failed is not None:
                raise self._failed
            response, start = self._get(self._asked.get(_normalised(url), url))
            if start == _START:
                start += response.read(PLAYLIST_BYTES)
                self._follow(url, _lines(start))
            elif _normalised(url) in self._maps:
                start += response.read(_COMPARED_BYTES)
                self._check_formats(start)
            elif (segment := self._seek(url)) is not None:
                start += response.read(_COMPARED_BYTES)
                if self._played.open(start, *segment):
                    self._opened += 1
                else:
                    self._skipped += 1
                    response.close()
                    start = b""
        except (SourceError, http.client.HTTPException) as error:
            if isinstance(error, LoginError) and error.was_sent:
                self._failed = error
            raise OSError(errno.EIO, str(error)) from None
        except ValueError:
            raise OSError(errno.EIO, "its playlist contains an invalid URL") from None
        return HttpBody(self._address, response, start)

    def _get(self, url: str) -> tuple[http.client.HTTPResponse, bytes]:
        """Request a part, with the login only if it is on the playlist's host; return its first bytes too."""
        refuse_unsafe(self._address, self._address.url, url)
        ours, theirs = urlsplit(self._address.url), urlsplit(url)
        host = theirs.netloc.rpartition("@")[2]
        same = (ours.scheme, ours.netloc) == (theirs.scheme, host)
        bare = urlunsplit(theirs._replace(netloc=host))
        login = self._address.login if same else None
        response = get(replace(self._address, url=bare, login=login))
        return response, response.read(len(_START))

    def _follow(self, url: str, lines: list[str]) -> None:
        self._is_live = _END not in lines
        self._live_until_s = self._played.follow(lines)
        self._names = _segments(lines)
        self._segments = [_normalised(name, url) for name in self._names]
        found = filter(None, map(_MAP.match, lines))
        self._maps = {_normalised(part[1] or part[2] or "", url) for part in found}

    def _check_formats(self, init: bytes) -> None:
        """Refuse an init section with other codec parameters: FFmpeg would decode on with those of the first one.

        Raises:
            SourceError: It is refused.
        """
        formats = _sample_descriptions(init)
        if self._formats and formats != self._formats:
            self._failed = SourceError(
                f"{self._address.shown}: the encoder has changed its settings; connecting again"
            )
            raise self._failed
        self._formats = formats

    def _seek(self, url: str) -> tuple[float, str] | None:
        """Return until when a part counts as live, and its name in the playlist; None if it is not a segment.

        Every part but playlists and init sections counts as a segment. One that the playlist seems not to have can be
        any of its segments, such as the oldest one.
        """
        if self._segments is None:
            return None  # not a playlist: FFmpeg reports what it is
        part = _normalised(url)
        found = [n for n, segment in enumerate(self._segments) if segment == part]
        if not found:
            self._after = 0
            return min(self._live_until_s, default=float("-inf")), ""
        self._after = len(self._segments) - 1 - found[-1]
        return min(self._live_until_s[n] for n in found), self._names[found[-1]]


def _normalised(url: str, base: str = "") -> str | None:
    """Return a URL in a form that does not depend on how FFmpeg joins and shortens URLs; None if it is invalid.

    It is for comparison only: a server may distinguish URLs that it makes equal.

    Args:
        url: A URL, or a reference in a playlist.
        base: URL of the playlist.
    """
    try:
        ours, theirs = urlsplit(base), urlsplit(url)
    except ValueError:
        return None
    path, query = theirs.path, theirs.query
    if not theirs.scheme and not theirs.netloc:
        if not path:
            path, query = ours.path, query or ours.query
        elif not path.startswith("/"):
            path = f"{ours.path.rpartition('/')[0]}/{path}"
    kept: list[str] = []
    for name in path.split("/"):
        if name != "..":
            kept += [name] * (name != ".")
        elif kept:
            kept.pop()
    scheme, host = theirs.scheme or ours.scheme, theirs.netloc or ours.netloc
    host = host.rpartition("@")[2].lower()
    return urlunsplit((scheme, host, "/".join(filter(None, kept)), query, ""))


def _sample_descriptions(init: bytes) -> list[bytes]:
    """Return the boxes of an MP4 init section that describe the codecs; the rest may differ at each request."""
    found = []
    for match in re.finditer(b"stsd", init):
        start = match.start() - 4
        found.append(init[start : start + int.from_bytes(init[max(0, start) : start + 4], "big")])
    return found


def _segments(lines: list[str]) -> list[str]:
    return [line for line in lines if line and not line.startswith("#")]


def _number(pattern: re.Pattern[str], lines: list[str]) -> int | None:
    return next((int(found[1]) for line in lines if (found := pattern.match(line))), None)


def _lines(playlist: bytes) -> list[str]:
    return [line.strip() for line in playlist.decode(errors="replace").splitlines()]
