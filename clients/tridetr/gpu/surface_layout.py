"""Layout of a picture's planes in device memory, and the copies that convert it to I420. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Subsampling(Enum):
    """Chroma subsampling of a JPEG; the GPU does not decode others."""

    S420 = "4:2:0"
    S422 = "4:2:2"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Copy2d:
    """A copy of rows within device memory. Addresses are plain integers; pitches and widths are in bytes.

    Attributes:
        source: Address of the first row to read.
        source_pitch: Distance from one row to the next.
        target: Address of the first row to write.
        target_pitch: Distance from one row to the next.
        width: Bytes to copy of each row.
        rows: Number of rows.
    """

    source: int
    source_pitch: int
    target: int
    target_pitch: int
    width: int
    rows: int


@dataclass(frozen=True, slots=True)
class JpegPlan:
    """How to decode a JPEG into an I420 frame.

    Attributes:
        channels: Addresses and pitches [bytes] at which the decoder must write Y, U and V.
        copies: Copies to make after decoding.
    """

    channels: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    copies: tuple[Copy2d, ...]


def i420_planes(pointer: int, width: int, height: int) -> tuple[int, int, int]:
    """Return the addresses of Y, U and V of a frame without padding.

    >>> i420_planes(1000, 4, 2)
    (1000, 1008, 1010)
    """
    luma, chroma = width * height, width * height // 4
    return pointer, pointer + luma, pointer + luma + chroma


def scratch_bytes(width: int, height: int) -> int:
    """Return the scratch memory [bytes] that `plan_jpeg` needs at most for a JPEG of this size."""
    return width * height + 2 * (-(-width // 2) * height)


def plan_jpeg(
    subsampling: Subsampling, width: int, height: int, pointer: int, scratch: int
) -> JpegPlan:
    """Plan the decoding of a JPEG into an I420 frame.

    4:2:0 of even size needs no copy: the decoder writes into the frame. For 4:2:2, it writes the chroma to
    scratch memory, from which every second row is copied to the frame (with twice the pitch). Odd sizes lose
    one row or column, for which all planes go through scratch memory.

    Args:
        subsampling: S420 or S422.
        width: Width of the JPEG in pixels; may be odd.
        height: Height of the JPEG in pixels; may be odd.
        pointer: Address of the I420 frame, which has an even size.
        scratch: Address of at least `scratch_bytes` of device memory.

    Raises:
        ValueError: The subsampling is another one.
    """
    if subsampling is Subsampling.OTHER:
        raise ValueError("only 4:2:0 and 4:2:2 are supported")
    even_width, even_height = width & ~1, height & ~1
    columns, rows = even_width // 2, even_height // 2
    y, u, v = i420_planes(pointer, even_width, even_height)
    full_rows = subsampling is Subsampling.S422
    odd = (even_width, even_height) != (width, height)
    if not full_rows and not odd:
        return JpegPlan(((y, width), (u, columns), (v, columns)), ())
    chroma_width = -(-width // 2)
    chroma_height = height if full_rows else -(-height // 2)
    scratch_u = scratch + width * height
    scratch_v = scratch_u + chroma_width * chroma_height
    step = 2 if full_rows else 1
    copies = [
        Copy2d(source, step * chroma_width, target, columns, columns, rows)
        for source, target in ((scratch_u, u), (scratch_v, v))
    ]
    luma = (y, width)
    if odd:
        luma = (scratch, width)
        copies.insert(0, Copy2d(scratch, width, y, even_width, even_width, even_height))
    return JpegPlan((luma, (scratch_u, chroma_width), (scratch_v, chroma_width)), tuple(copies))


def nv12_pitch(luma: int, chroma: int, width: int, height: int) -> int:
    """Return the pitch [bytes] of a decoder's NV12 surface, whose chroma follows its luma.

    Args:
        luma: Address of the luma plane.
        chroma: Address of the chroma plane.
        width: Width in pixels.
        height: Number of luma rows.

    Raises:
        ValueError: The planes are not laid out like that.

    >>> nv12_pitch(0, 2048 * 1080, 1920, 1080)
    2048
    """
    pitch, rest = divmod(chroma - luma, height)
    if rest or pitch < width:
        raise ValueError(
            f"not an NV12 surface: chroma is {chroma - luma} bytes after the luma of {width}x{height}"
        )
    return pitch
