"""Creates views of the planes in a V4L2 buffer, without copying."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tridetr.capture.sources.base import Layout, Picture, Plane
from tridetr.shm.frames import ColorMatrix, ColorRange

# Values of linux/videodev2.h
_FULL_RANGE = 1
_COLORSPACE_REC709, _COLORSPACE_JPEG, _COLORSPACE_BT2020, _COLORSPACE_DCI_P3 = 3, 7, 10, 12
_ENCODINGS = {
    1: ColorMatrix.BT601,
    2: ColorMatrix.BT709,
    3: ColorMatrix.BT601,
    4: ColorMatrix.BT709,
    6: ColorMatrix.BT2020,
    7: ColorMatrix.BT2020,
}
_DEFAULT_ENCODINGS = {
    _COLORSPACE_REC709: ColorMatrix.BT709,
    _COLORSPACE_DCI_P3: ColorMatrix.BT709,
    _COLORSPACE_BT2020: ColorMatrix.BT2020,
}


@dataclass(frozen=True, slots=True)
class FrameFormat:
    """Frame format that the driver has agreed to deliver.

    Attributes:
        fourcc: Pixel format, such as "YUYV".
        width: Pixels.
        height: Pixels.
        bytes_per_line: Length of a row of the first plane [bytes]; 0 for compressed formats.
        color_range: As the driver reports it, or the default that the kernel documents.
        color_matrix: Likewise.
    """

    fourcc: str
    width: int
    height: int
    bytes_per_line: int
    color_range: ColorRange
    color_matrix: ColorMatrix

    @property
    def compressed(self) -> bool:
        """Whether buffers hold JPEGs."""
        return self.fourcc in ("MJPG", "JPEG")

    @property
    def needed_bytes(self) -> int:
        """Minimum size of a complete uncompressed picture [bytes]."""
        half_width, half_height = (self.width + 1) // 2, (self.height + 1) // 2
        stride = self.bytes_per_line
        if self.fourcc == "YUYV":
            return stride * (self.height - 1) + 4 * half_width
        if self.fourcc == "NV12":
            return stride * (self.height + half_height - 1) + 2 * half_width
        return stride * self.height + stride // 2 * (2 * half_height - 1) + half_width


def colors(colorspace: int, encoding: int, quantization: int) -> tuple[ColorRange, ColorMatrix]:
    """Return range and matrix of Y'CbCr pixels from the fields of v4l2_pix_format.

    Zero stands for a default that depends on the colour space (V4L2_MAP_YCBCR_ENC_DEFAULT and
    V4L2_MAP_QUANTIZATION_DEFAULT of linux/videodev2.h).
    """
    full = quantization == _FULL_RANGE or (quantization == 0 and colorspace == _COLORSPACE_JPEG)
    default = _DEFAULT_ENCODINGS.get(colorspace, ColorMatrix.BT601)
    matrix = _ENCODINGS.get(encoding, default)
    return (ColorRange.FULL if full else ColorRange.LIMITED), matrix


def picture(data: Plane, form: FrameFormat) -> Picture:
    """Return views of an uncompressed picture.

    Args:
        data: The buffer, uint8 [at least form.needed_bytes].
        form: Format of the buffer's content.

    Raises:
        ValueError: The buffer is too short, or the format is compressed.
    """
    if form.compressed:
        raise ValueError(f"{form.fourcc} is compressed")
    if data.size < form.needed_bytes:
        raise ValueError(
            f"the buffer has {data.size} bytes, but a picture needs {form.needed_bytes}"
        )
    layout, planes = _planes(data, form)
    return Picture(layout, planes, form.width, form.height, form.color_range, form.color_matrix)


def _planes(data: Plane, form: FrameFormat) -> tuple[Layout, tuple[Plane, ...]]:
    width, height, stride = form.width, form.height, form.bytes_per_line
    half_width, half_height = (width + 1) // 2, (height + 1) // 2
    if form.fourcc == "YUYV":
        return Layout.YUYV, (_rows(data, height, stride, 4 * half_width),)
    y, chroma = _rows(data, height, stride, width), data[stride * height :]
    if form.fourcc == "NV12":
        return Layout.NV12, (y, _rows(chroma, half_height, stride, 2 * half_width))
    half_stride = stride // 2
    u = _rows(chroma, half_height, half_stride, half_width)
    v = _rows(chroma[half_stride * half_height :], half_height, half_stride, half_width)
    return Layout.I420, (y, u, v)


def _rows(data: Plane, rows: int, stride: int, used: int) -> Plane:
    # The last row may end without its padding, so a reshape of whole rows would not do.
    return np.lib.stride_tricks.as_strided(data, shape=(rows, used), strides=(stride, 1))
