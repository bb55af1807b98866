"""Where the planes of a picture lie in device memory, and which copies bring them into I420. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Subsampling(Enum):
    """How often a JPEG has chroma; the others are decoded on the CPU."""

    S420 = "4:2:0"
    S422 = "4:2:2"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Copy2d:
    """One copy of rows within device memory. Addresses are plain numbers, all else is in bytes.

    Attributes:
        source: address of the first row.
        source_pitch: from one row to the next.
        target: address of the first row.
        target_pitch: from one row to the next.
        width: bytes of a row that are copied.
        rows: how many.
    """

    source: int
    source_pitch: int
    target: int
    target_pitch: int
    width: int
    rows: int


@dataclass(frozen=True, slots=True)
class JpegPlan:
    """How a JPEG gets into an I420 frame.

    Attributes:
        channels: address and pitch [bytes] where the decoder shall write Y, U and V.
        copies: what is left to do then.
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
    """Return what `plan_jpeg` may need of scratch memory for a JPEG of this size (4:2:2, odd sizes)."""
    return width * height + 2 * (-(-width // 2) * height)


def plan_jpeg(
    subsampling: Subsampling, width: int, height: int, pointer: int, scratch: int
) -> JpegPlan:
    """Plan the decoding of a JPEG into an I420 frame.

    4:2:0 of even size needs no copy: the decoder writes into the frame. Of 4:2:2 the chroma goes into
    scratch memory, and every second row of it into the frame (a copy with twice the pitch). Odd sizes
    lose one row or column, which takes all planes through scratch memory.

    Args:
        subsampling: S420 or S422.
        width: of the JPEG, in pixels; may be odd.
        height: likewise.
        pointer: where the I420 frame of even size begins.
        scratch: at least `scratch_bytes` of device memory.

    Raises:
        ValueError: another subsampling.
    """
    if subsampling is Subsampling.OTHER:
        raise ValueError("only 4:2:0 and 4:2:2 can be planned")
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
        luma: address of the luma plane.
        chroma: address of the chroma plane.
        width: pixels.
        height: rows of luma.

    Raises:
        ValueError: the planes do not lie like that.

    >>> nv12_pitch(0, 2048 * 1080, 1920, 1080)
    2048
    """
    pitch, rest = divmod(chroma - luma, height)
    if rest or pitch < width:
        raise ValueError(
            f"chroma lies {chroma - luma} bytes after the luma of {width}x{height}: no NV12 surface"
        )
    return pitch
