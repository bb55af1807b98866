"""Makes complete JPEGs of a camera's MJPEG frames, so that they can be passed on as they are."""

from __future__ import annotations

from tridetr.jpeg import complete, read_info

_END_MARKER = b"\xff\xd9"
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
    info = read_info(data)
    return data if info is None else memoryview(complete(data, info))


def _unpadded(data: memoryview) -> memoryview:
    if data[-2:] == _END_MARKER:
        return data
    first = max(0, len(data) - _MOST_PADDING)
    end = bytes(data[first:]).rfind(_END_MARKER)
    return data[: first + end + 2] if end >= 0 else data
