"""Encode I420 frames as JPEGs for browsers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import av
import numpy as np
import numpy.typing as npt
import simplejpeg
from av.video.reformatter import Interpolation

from tridetr.i420 import planes as split

SMALL_WIDTH = 640  # maximum width of pictures in the grid view

# libswscale converts between colour matrices through RGB. These flags are the cheapest ones that keep greys grey (plain
# BILINEAR tints them) and every colour within 3 levels at the original size (1 when shrinking).
# PyAV has names for the flags from version 18 on, which needs Python 3.11.
_SWS_FULL_CHR_H_INT, _SWS_FULL_CHR_H_INP, _SWS_ACCURATE_RND = 0x2000, 0x4000, 0x40000
_KEEP_SIZE = Interpolation.FAST_BILINEAR | _SWS_FULL_CHR_H_INP
_SHRINK = Interpolation.AREA | _SWS_ACCURATE_RND | _SWS_FULL_CHR_H_INT
# The numbers are the same in libswscale and FFmpeg.
_COLORSPACES = {"BT709": 1, "BT601": 5, "BT2020": 9}


class Picture(Protocol):
    """The part of a frame lease that encoding uses."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def planes(self) -> npt.NDArray[np.uint8]: ...


@dataclass(frozen=True, slots=True)
class Color:
    """The colour space of a frame's samples.

    Attributes:
        full_range: whether samples use the range 0 to 255 rather than 16 to 235.
        matrix: ``BT601``, ``BT709`` or ``BT2020``.
    """

    full_range: bool
    matrix: str

    @property
    def is_jpeg(self) -> bool:
        """Whether this is the only colour space of JPEG (JFIF): BT.601, full range."""
        return self.full_range and self.matrix == "BT601"


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """A JPEG, its size in pixels, and whether it is the camera's original JPEG."""

    jpeg: bytes
    width: int
    height: int
    is_original: bool = False


def small_size(width: int, height: int) -> tuple[int, int]:
    """Return the size of a picture in the grid view: at most SMALL_WIDTH wide, same aspect ratio, both sides even.

    Example:
        >>> small_size(1920, 1080)
        (640, 360)
    """
    if width <= SMALL_WIDTH:
        return width, height
    return SMALL_WIDTH, max(2, round(height * SMALL_WIDTH / width / 2) * 2)


def encode(picture: Picture, color: Color, *, quality: int, small: bool) -> EncodedImage:
    """Encode the I420 planes of a frame as JPEG.

    Planes that are already in JPEG's colour space are encoded unchanged; others are first converted (and shrunk in the
    same pass) by libswscale. Neither holds the GIL for long: call this function in a thread.

    Args:
        picture: a leased frame; uint8 planes [3H/2, W], H and W even.
        color: colour space of the planes.
        quality: JPEG quality, 1 to 100.
        small: whether to encode at the size of the grid view.
    """
    width, height = picture.width, picture.height
    target = small_size(width, height) if small else (width, height)
    if color.is_jpeg and target == (width, height):
        planes = list(split(picture.planes))
    else:
        planes = _convert(picture.planes, width, height, color, target)
    jpeg = simplejpeg.encode_jpeg_yuv_planes(*planes, quality=quality)
    return EncodedImage(jpeg, *target)


def _convert(
    i420: npt.NDArray[np.uint8], width: int, height: int, color: Color, target: tuple[int, int]
) -> list[npt.NDArray[np.uint8]]:
    source = _wrap(i420, width, height)
    source.colorspace = _COLORSPACES[color.matrix]  # PyAV 17 takes BT.2020 from the frame only
    frame = source.reformat(
        width=target[0],
        height=target[1],
        format="yuv420p",
        src_colorspace=_COLORSPACES[color.matrix],
        dst_colorspace="itu601",
        src_color_range="JPEG" if color.full_range else "MPEG",
        dst_color_range="JPEG",
        interpolation=int(_SHRINK if target[0] < width else _KEEP_SIZE),
        threads=1,
    )
    return [np.ascontiguousarray(samples(plane)) for plane in frame.planes]


def _wrap(i420: npt.NDArray[np.uint8], width: int, height: int) -> av.VideoFrame:
    if height % 4 == 0:
        return av.VideoFrame.from_numpy_buffer(i420, "yuv420p")
    # PyAV derives the height from the rows of the array and rounds it down to a multiple of four: copy instead.
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, source in zip(frame.planes, split(i420), strict=True):
        fill(plane, source)
    return frame


def samples(plane: av.video.plane.VideoPlane) -> npt.NDArray[np.uint8]:
    """Return a view of a plane of one byte per sample, uint8 [H, W], without the padding of its rows."""
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width]


def fill(plane: av.video.plane.VideoPlane, values: npt.NDArray[np.uint8]) -> None:
    """Copy samples, uint8 [H, W], into a plane."""
    rows = np.zeros((plane.height, plane.line_size), np.uint8)
    rows[:, : plane.width] = values
    plane.update(rows.tobytes())
