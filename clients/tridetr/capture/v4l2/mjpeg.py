"""Makes complete JPEGs of a camera's MJPEG frames, so that they can be passed on as they are."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

from PIL import Image

_START, _END, _SCAN, _TABLES = 0xD8, 0xD9, 0xDA, 0xC4
_END_MARKER = bytes((0xFF, _END))
# Drivers round transfers up; nobody pads by more than this.
_MOST_PADDING = 4096


def complete_jpeg(data: memoryview) -> memoryview:
    """Return the frame without padding and with Huffman tables.

    MJPEG allows a frame to leave out the standard tables, which many cameras do; as a file of its
    own or in a browser it needs them. Only such a frame is copied.

    Args:
        data: The frame as it came, uint8.

    Returns:
        The JPEG. What does not look like one comes back unchanged (the decoder will say why).
    """
    data = _unpadded(data)
    scan = 0
    for marker, position in _segments(data):
        if marker == _TABLES:
            return data
        if marker == _SCAN:
            scan = position
    if not scan:
        return data
    return memoryview(b"".join((data[:scan], _standard_tables(), data[scan:])))


def _unpadded(data: memoryview) -> memoryview:
    if data[-2:] == _END_MARKER:
        return data
    first = max(0, len(data) - _MOST_PADDING)
    end = bytes(data[first:]).rfind(_END_MARKER)
    return data[: first + end + 2] if end >= 0 else data


def _segments(data: memoryview) -> Iterator[tuple[int, int]]:
    """Yield marker and position of each segment up to the scan; ends early at anything else."""
    if len(data) < 4 or data[0] != 0xFF or data[1] != _START:
        return
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        yield marker, position
        if marker == _SCAN:
            return
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


@cache
def _standard_tables() -> bytes:
    # Any baseline JPEG that was not optimised holds them.
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", optimize=False)
    jpeg = memoryview(file.getvalue())
    segments = list(_segments(jpeg))
    return b"".join(
        jpeg[start:end] for (marker, start), (_, end) in pairwise(segments) if marker == _TABLES
    )
