"""Converts PyAV frames to pictures: views of the decoder's planes, with colour range and matrix."""

from __future__ import annotations

import logging
from dataclasses import replace
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.video.reformatter import ColorRange as AvRange
from av.video.reformatter import VideoReformatter

from tridetr.capture.sources.base import CorruptFrameError, Layout, Picture, Plane, matrix_for
from tridetr.shm.frames import ColorMatrix, ColorRange

_log = logging.getLogger("tridetr.capture")

_LAYOUTS = {
    "yuv420p": Layout.I420,
    "yuvj420p": Layout.I420,
    "yuv422p": Layout.I422,
    "yuvj422p": Layout.I422,
    "nv12": Layout.NV12,
    "yuyv422": Layout.YUYV,
}
_BYTES_PER_PIXEL = {Layout.YUYV: 2}
# AVColorSpace: FCC, BT.470BG (JPEG) and SMPTE 170M are known as BT.601
_MATRICES = {4: ColorMatrix.BT601, 5: ColorMatrix.BT601, 6: ColorMatrix.BT601}
_MATRICES |= {1: ColorMatrix.BT709, 7: ColorMatrix.BT709}
_MATRICES |= {9: ColorMatrix.BT2020, 10: ColorMatrix.BT2020}
_converted: set[str] = set()


def picture_from(
    frame: av.VideoFrame,
    scaler: VideoReformatter,
    pixel_aspect: Fraction | None = None,
    rotation: int | None = None,
) -> Picture:
    """Return an upright picture with square pixels; its planes are views of the frame, which they keep alive.

    A rotation that the stream or the JPEG's EXIF block requests is applied to the views, so it costs no copy. Pixels
    that are not square, and formats other than planar 4:2:0 and 4:2:2, NV12 and YUYV, are converted by swscale, which
    costs one more copy; such a format is logged once.

    Args:
        frame: The decoded frame.
        scaler: Converts the stream's frames; the same one for all of them, and used by one thread at a time.
        pixel_aspect: Pixel aspect ratio (width over height) that the stream reports; None if unknown.
        rotation: By how many degrees anticlockwise it must be turned; None to ask the frame.

    Raises:
        CorruptFrameError: The frame cannot be converted.
    """
    size = _square_size(frame.width, frame.height, pixel_aspect)
    color_range, matrix = color_of(
        frame.format.name, frame.color_range, frame.colorspace, frame.height
    )
    layout = _LAYOUTS.get(frame.format.name)
    if rotation is None:
        rotation = frame.rotation
    if (
        layout is None
        or size != (frame.width, frame.height)
        or any(plane.line_size <= 0 for plane in frame.planes)
    ):
        if layout is None and frame.format.name not in _converted:
            _converted.add(frame.format.name)
            _log.warning(
                "the source delivers %s, which is converted to I420 (one more copy per frame)",
                frame.format.name,
            )
        if frame.format.is_rgb:  # swscale's output for RGB
            color_range, matrix = ColorRange.LIMITED, ColorMatrix.BT601
        av_range = AvRange.MPEG if color_range is ColorRange.LIMITED else AvRange.JPEG
        try:
            frame = scaler.reformat(
                frame,
                *size,
                format="yuv420p",
                src_color_range=av_range,
                dst_color_range=av_range,
                threads=1,  # otherwise one per core, for each camera
            )
        except (av.FFmpegError, MemoryError) as error:
            raise CorruptFrameError(
                f"cannot convert {frame.format.name} {frame.width}x{frame.height} to I420 "
                f"{size[0]}x{size[1]}: {error}"
            ) from None
        layout = Layout.I420
    picture = Picture(
        layout=layout,
        planes=_planes(frame, layout),
        width=frame.width,
        height=frame.height,
        color_range=color_range,
        color_matrix=matrix,
    )
    quarters = round(rotation / 90) % 4
    return _turn(picture, quarters) if quarters else picture


def _square_size(width: int, height: int, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """Return the size that shows the picture with square pixels; the shorter side grows.

    >>> _square_size(704, 576, Fraction(12, 11))
    (768, 576)
    >>> _square_size(320, 240, None)
    (320, 240)
    """
    if not pixel_aspect or not 0.25 <= pixel_aspect <= 4 or abs(pixel_aspect - 1) < 0.01:
        return width, height
    if pixel_aspect > 1:
        return round(width * pixel_aspect / 2) * 2, height
    return width, round(height / pixel_aspect / 2) * 2


def _turn(picture: Picture, quarters: int) -> Picture:
    """Return the picture rotated anticlockwise by quarter turns; its planes are still views."""
    width, height = picture.width & ~1, picture.height & ~1
    first = picture.planes[0]
    if picture.layout is Layout.YUYV:
        y, u, v = first[:, : 2 * width : 2], first[::2, 1::4], first[::2, 3::4]
    elif picture.layout is Layout.NV12:
        y, u, v = first, picture.planes[1][:, ::2], picture.planes[1][:, 1::2]
    else:
        y, u, v = picture.planes
        if picture.layout is Layout.I422:
            u, v = u[::2], v[::2]
    chroma = (slice(height // 2), slice(width // 2))
    planes = tuple(
        np.rot90(plane, quarters) for plane in (y[:height, :width], u[chroma], v[chroma])
    )
    if quarters % 2:
        width, height = height, width
    return replace(
        picture, layout=Layout.I420, planes=planes, width=width, height=height, turned=True
    )


def color_of(
    pix_fmt: str, color_range: int, colorspace: int, height: int
) -> tuple[ColorRange, ColorMatrix]:
    """Return colour range and matrix of a YUV picture; assume the usual ones if the stream names none.

    Args:
        pix_fmt: FFmpeg's name of the pixel format.
        color_range: AVColorRange.
        colorspace: AVColorSpace.
        height: Pixels.
    """
    limited = color_range != AvRange.JPEG and not pix_fmt.startswith("yuvj")
    matrix = _MATRICES.get(int(colorspace))
    if matrix is None:
        matrix = matrix_for(height) if limited else ColorMatrix.BT601
    return ColorRange.LIMITED if limited else ColorRange.FULL, matrix


def _planes(frame: av.VideoFrame, layout: Layout) -> tuple[Plane, ...]:
    width = frame.width * _BYTES_PER_PIXEL.get(layout, 1)
    chroma_width = (frame.width + 1) // 2
    if layout is Layout.NV12:
        chroma_width *= 2
    half_height = layout in (Layout.I420, Layout.NV12)
    chroma_height = (frame.height + 1) // 2 if half_height else frame.height
    planes: list[Plane] = []
    for index, plane in enumerate(frame.planes):
        rows = np.frombuffer(cast(memoryview, plane), np.uint8).reshape(-1, plane.line_size)
        if index == 0:
            planes.append(rows[: frame.height, :width])
        else:
            planes.append(rows[:chroma_height, :chroma_width])
    return tuple(planes)
