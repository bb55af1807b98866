"""From PyAV's frames to pictures: views of the decoder's own planes, with their colour meaning."""

from __future__ import annotations

import logging
from typing import cast

import av
import numpy as np
from av.video.reformatter import ColorRange as AvRange

from tridetr.capture.sources.base import Layout, Picture, Plane, matrix_for
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
# AVColorSpace: FCC, BT.470BG (JPEG) and SMPTE 170M are what is called BT.601
_MATRICES = {4: ColorMatrix.BT601, 5: ColorMatrix.BT601, 6: ColorMatrix.BT601}
_MATRICES |= {1: ColorMatrix.BT709, 7: ColorMatrix.BT709}
_MATRICES |= {9: ColorMatrix.BT2020, 10: ColorMatrix.BT2020}
_converted: set[str] = set()


def picture_from(frame: av.VideoFrame) -> Picture:
    """Return a picture whose planes are views of the frame (which they keep alive).

    Formats other than planar 4:2:0 and 4:2:2, NV12 and YUYV are converted by swscale, which costs
    a copy more: said once in the log.
    """
    color_range, matrix = color_of(
        frame.format.name, frame.color_range, frame.colorspace, frame.height
    )
    layout = _LAYOUTS.get(frame.format.name)
    if layout is None or any(plane.line_size <= 0 for plane in frame.planes):
        if frame.format.name not in _converted:
            _converted.add(frame.format.name)
            _log.warning(
                "the source delivers %s, which is converted to I420 (a copy more per frame)",
                frame.format.name,
            )
        if frame.format.is_rgb:  # what swscale makes of it
            color_range, matrix = ColorRange.LIMITED, ColorMatrix.BT601
        av_range = AvRange.MPEG if color_range is ColorRange.LIMITED else AvRange.JPEG
        frame = frame.reformat(format="yuv420p", src_color_range=av_range, dst_color_range=av_range)
        layout = Layout.I420
    return Picture(
        layout=layout,
        planes=_planes(frame, layout),
        width=frame.width,
        height=frame.height,
        color_range=color_range,
        color_matrix=matrix,
    )


def color_of(
    pix_fmt: str, color_range: int, colorspace: int, height: int
) -> tuple[ColorRange, ColorMatrix]:
    """Return what the samples of a YUV picture mean; what the stream does not say is assumed.

    Args:
        pix_fmt: FFmpeg's name of the pixel format.
        color_range: AVColorRange.
        colorspace: AVColorSpace.
        height: pixels.
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
