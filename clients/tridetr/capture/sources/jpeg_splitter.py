"""Splits a byte stream into JPEGs by their markers, and ignores everything in between."""

from __future__ import annotations

import re
from collections.abc import Iterator

_START = b"\xff\xd8\xff"
_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # a marker that ends a scan's data
_NO_LENGTH = {0x01, *range(0xD0, 0xD8)}  # markers without a segment
_NOT_A_SIZE = {0xC4, 0xC8, 0xCC}
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = 0xD8, 0xD9, 0xDA
_SEARCHED = 2 << 16  # bytes of a false JPEG that are searched for another one: two segments
MAX_BYTES = 32 << 20


class JpegSplitter:
    r"""Extracts the JPEGs from the bytes that an HTTP camera sends.

    Boundaries, headers and lengths are not needed, so they may be wrong. A JPEG without an end marker
    ends where the next one begins; the decoder decides whether it is usable.

    >>> splitter = JpegSplitter()
    >>> picture = b"\xff\xd8\xff\xda\x00\x02data\xff\xd9"
    >>> list(splitter.feed(b"--frame\r\n\r\n" + picture + b"\r\n--fr")) == [picture]
    True
    """

    def __init__(self, boundary: bytes = b"", max_bytes: int = MAX_BYTES) -> None:
        """Create a splitter.

        Args:
            boundary: The multipart boundary, if known; used to cut headers off JPEGs without an end marker.
            max_bytes: A longer JPEG is dropped.
        """
        self._boundary = boundary
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._at = 0  # how much of the JPEG at the buffer's start is parsed; 0: no start found yet
        self._in_scan = False
        self.size = (0, 0)  # width and height [pixels] of the newest JPEG; 0 while unknown
        self.dropped = 0  # JPEGs that were too long

    @property
    def is_inside(self) -> bool:
        """Whether a JPEG has begun and is not complete yet."""
        return self._at > 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add bytes, and yield the JPEGs that are complete now."""
        self._buffer += data
        while True:
            if self._at == 0 and not self._find_start():
                return
            end = self._scan() if self._in_scan else self._segment()
            if end is None:
                if len(self._buffer) > self._max_bytes:
                    self.dropped += 1
                    self._restart(len(self._buffer))
                return
            if end > 0:
                yield self._cut(end)

    def flush(self) -> Iterator[bytes]:
        """Yield a last JPEG without an end marker, at the end of the stream."""
        if self._in_scan:
            yield self._cut(len(self._buffer))

    def _find_start(self) -> bool:
        start = self._buffer.find(_START)
        if start < 0:
            del self._buffer[: max(0, len(self._buffer) - len(_START) + 1)]
            return False
        self._restart(start)
        self._at = 2
        return True

    def _segment(self) -> int | None:
        """Skip a segment; return the JPEG's end, 0 to continue, or None to wait for more bytes."""
        at, buffer = self._at, self._buffer
        if at + 4 > len(buffer):
            return at + 2 if bytes(buffer[at : at + 2]) == b"\xff\xd9" else None
        marker = buffer[at + 1]
        if buffer[at] != 0xFF or marker == _START_OF_IMAGE:
            # Not a JPEG after all: a picture may begin within it, but searching all of it could take quadratic time
            self._restart(2 if buffer[at] != 0xFF and at <= _SEARCHED else at)
        elif marker == 0xFF:
            self._at += 1
        elif marker == _END_OF_IMAGE:
            return at + 2
        elif marker in _NO_LENGTH:
            self._at += 2
        else:
            if 0xC0 <= marker <= 0xCF and marker not in _NOT_A_SIZE:
                if at + 9 > len(buffer):
                    return None
                height = int.from_bytes(buffer[at + 5 : at + 7], "big")
                self.size = (int.from_bytes(buffer[at + 7 : at + 9], "big"), height)
            self._at += 2 + int.from_bytes(buffer[at + 2 : at + 4], "big")
            self._in_scan = marker == _START_OF_SCAN
        return 0

    def _scan(self) -> int | None:
        """Look for the end of a scan's data (see `_segment`)."""
        found = _IN_SCAN.search(self._buffer, self._at)
        if found is None:
            self._at = max(self._at, len(self._buffer) - 1)
            return None
        marker = self._buffer[found.end() - 1]
        if marker == _END_OF_IMAGE:
            return found.end()
        if marker == _START_OF_IMAGE:
            return found.start()
        segment = 0xC0 <= marker <= 0xEF or marker == 0xFE
        self._at, self._in_scan = (found.start(), False) if segment else (found.end(), True)
        return 0

    def _cut(self, end: int) -> bytes:
        jpeg = bytes(self._buffer[:end])
        self._restart(end)
        if self._boundary and not jpeg.endswith(b"\xff\xd9"):
            cut = jpeg.rfind(self._boundary)
            return jpeg[:cut] if cut > 0 else jpeg
        return jpeg

    def _restart(self, start: int) -> None:
        del self._buffer[:start]
        self._at = 0
        self._in_scan = False
