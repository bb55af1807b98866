"""Camera JPEGs: parse their headers, and add the Huffman tables that MJPEG leaves out. Pure functions."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_SOI, _EOI, _SOS, _DHT = 0xD8, 0xD9, 0xDA, 0xC4
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_END_MARKER = b"\xff\xd9"
_MOST_PADDING = 4096  # drivers round transfers up, by less than this


def _table(kind: int, counts: str, values: str) -> bytes:
    return bytes([kind]) + bytes.fromhex(counts) + bytes.fromhex(values)


_AC_LUMA = (
    "0102030004110512213141061351610722711432 8191a1082342b1c11552d1f02433627282090a161718191a25"
    "262728292a3435363738393a434445464748494a535455565758595a636465666768696a737475767778797a83"
    "8485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3"
    "d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
)
_AC_CHROMA = (
    "0001020311040521310612415107617113223281081442 91a1b1c109233352f0156272d10a162434e125f11718"
    "191a262728292a35363738393a434445464748494a535455565758595a636465666768696a737475767778797a"
    "82838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9ca"
    "d2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
)
# The Huffman tables of the JPEG standard (annex K.3), which MJPEG decoders have built in and browsers do not.
_TABLES = (
    _table(0x00, "00010501010101010100000000000000", "000102030405060708090a0b"),
    _table(0x10, "0002010303020403050504040000017d", _AC_LUMA),
    _table(0x01, "00030101010101010101010000000000", "000102030405060708090a0b"),
    _table(0x11, "00020102040403040705040400010277", _AC_CHROMA),
)
_STANDARD_DHT = b"".join(
    b"\xff\xc4" + struct.pack(">H", 2 + len(table)) + table for table in _TABLES
)


@dataclass(frozen=True, slots=True)
class JpegInfo:
    """The header fields of a JPEG; ``scan`` is the offset of its first scan."""

    width: int
    height: int
    has_huffman_tables: bool
    scan: int


def read_info(data: bytes | memoryview) -> JpegInfo | None:
    """Parse the markers up to the first scan; None if ``data`` is not a JPEG with complete headers."""
    if data[:2] != b"\xff\xd8":
        return None
    offset, size, tables = 2, None, False
    while offset + 4 <= len(data):
        if data[offset] != 0xFF:
            return None
        marker = data[offset + 1]
        if marker == 0xFF:  # fill byte
            offset += 1
            continue
        if marker in (_SOI, _EOI) or 0xD0 <= marker <= 0xD7 or marker == 0x01:
            return None  # markers without a length are not allowed in the headers
        (length,) = struct.unpack_from(">H", data, offset + 2)
        if length < 2:
            return None
        if marker == _SOS:
            return JpegInfo(*size, tables, offset) if size else None
        if marker == _DHT:
            tables = True
        elif marker in _SOF:
            if length < 8 or offset + 9 > len(data):
                return None
            height, width = struct.unpack_from(">HH", data, offset + 5)
            size = (width, height)
        offset += 2 + length
    return None


def complete(data: bytes | memoryview, info: JpegInfo) -> bytes | memoryview:
    """Return a JPEG with Huffman tables, adding the standard ones that MJPEG may leave out; see :func:`read_info`."""
    if info.has_huffman_tables:
        return data
    return b"".join((data[: info.scan], _STANDARD_DHT, data[info.scan :]))


def complete_jpeg(data: memoryview) -> memoryview:
    """Return an MJPEG frame without padding and with Huffman tables.

    MJPEG allows a frame to leave out the standard tables, and many cameras do so; a stand-alone file or a browser
    needs them. Only such a frame is copied.

    Args:
        data: The frame as received, uint8.

    Returns:
        The JPEG. Data that is not a JPEG is returned unchanged: the decoder reports the error.
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


def for_browser(data: bytes, width: int, height: int) -> bytes | None:
    """Return a camera's JPEG in a form that every browser displays; None if its headers do not match the frame.

    Args:
        data: the JPEG as the camera sent it.
        width: width of the frame in pixels; the JPEG may be one pixel larger (odd sizes are cropped).
        height: height of the frame in pixels, likewise.
    """
    info = read_info(data)
    if info is None or not (0 <= info.width - width <= 1 and 0 <= info.height - height <= 1):
        return None
    return bytes(complete(data, info))
