"""HLS playlists: the best variant, their parts, and how far behind the camera a live one is read."""

from __future__ import annotations

import contextlib
import errno
import http.client
import re
from dataclasses import replace
from urllib.parse import urljoin, urlsplit, urlunsplit

from tridetr.capture.sources.http_request import HttpAddress, get
from tridetr.errors import SourceError

PLAYLIST_BYTES = 1 << 20
_START = b"#EXTM3U"
_BEHIND = 2  # segments of a live playlist after the one that is read; FFmpeg starts with as many
_VARIANT = re.compile(
    rb"#EXT-X-STREAM-INF:([^\r\n]*)[\r\n]+(?:#[^\r\n]*[\r\n]+)*([^#\r\n][^\r\n]*)"
)


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


class PlaylistParts:
    """Opens the parts of a playlist, for which FFmpeg drops its TLS options; the argument of `av.open(io_open=...)`."""

    def __init__(self, address: HttpAddress) -> None:
        self._address = address
        self._segments: list[str] = []  # of a live playlist
        self._after = 0  # number of them after the one opened last

    @property
    def is_behind(self) -> bool:
        """Whether a live playlist is read at a distance that should become shorter."""
        return self._after >= _BEHIND

    def __call__(self, url: str, *_: object) -> HttpPart:
        """Open a part, with the login only if it is on the playlist's host.

        Raises:
            OSError: It cannot be opened.
        """
        try:
            ours, theirs = urlsplit(self._address.url), urlsplit(url)
            host = theirs.netloc.rpartition("@")[2]
            same = (ours.scheme, ours.netloc) == (theirs.scheme, host)
            bare = urlunsplit(theirs._replace(netloc=host))
            login = self._address.login if same else None
            response = get(replace(self._address, url=bare, login=login))
            start = response.read(len(_START))
            if start == _START:
                start += response.read(PLAYLIST_BYTES)
                self._follow(url, start.decode(errors="replace"))
        except (SourceError, http.client.HTTPException) as error:
            raise OSError(errno.EIO, str(error)) from None
        except ValueError:
            raise OSError(errno.EIO, "its playlist contains an invalid URL") from None
        if not start.startswith(_START) and url in self._segments:
            self._after = self._segments[::-1].index(url)
        return HttpPart(response, start)

    def _follow(self, url: str, text: str) -> None:
        lines = [line.strip() for line in text.splitlines()]
        is_live = "#EXT-X-ENDLIST" not in lines
        names = [line for line in lines if is_live and line and not line.startswith("#")]
        with contextlib.suppress(ValueError):  # an invalid URL: reported when FFmpeg opens it
            self._segments = [urljoin(url, name) for name in names]
        self._after *= is_live


class HttpPart:
    """A part of a playlist, as a file-like object for FFmpeg."""

    def __init__(self, response: http.client.HTTPResponse, start: bytes) -> None:
        self._response = response
        self._start = start

    def read(self, size: int) -> bytes:
        if self._start:
            data, self._start = self._start[:size], self._start[size:]
            return data
        return self._response.read(size)

    def close(self) -> None:
        self._response.close()
