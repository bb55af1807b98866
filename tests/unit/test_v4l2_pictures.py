"""Views of V4L2 buffers: planes are located as the format specifies, with any padding."""

from __future__ import annotations

import mmap
from dataclasses import replace

import numpy as np
import pytest

from tridetr.capture.planes import copy_picture
from tridetr.capture.v4l2 import device
from tridetr.capture.v4l2.buffer_views import FrameFormat, colors, picture
from tridetr.capture.v4l2.calls import raw
from tridetr.shm.frames import ColorMatrix, ColorRange

WIDTH, HEIGHT = 8, 6
Y = np.arange(WIDTH * HEIGHT, dtype=np.uint8).reshape(HEIGHT, WIDTH)
U = 100 + np.arange(12, dtype=np.uint8).reshape(HEIGHT // 2, WIDTH // 2)
V = 200 + np.arange(12, dtype=np.uint8).reshape(HEIGHT // 2, WIDTH // 2)


def padded(rows: np.ndarray, stride: int) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, stride - rows.shape[1])), constant_values=255).reshape(-1)


def buffer_of(fourcc: str, padding: int) -> tuple[np.ndarray, int]:
    """Return the bytes of the picture, and their stride."""
    if fourcc == "YUYV":
        rows = np.empty((HEIGHT, 2 * WIDTH), np.uint8)
        rows[:, ::2] = Y
        rows[:, 1::4] = U.repeat(2, axis=0)
        rows[:, 3::4] = V.repeat(2, axis=0)
        return padded(rows, 2 * WIDTH + padding), 2 * WIDTH + padding
    stride = WIDTH + padding
    if fourcc == "NV12":
        chroma = [padded(np.stack([U, V], axis=-1).reshape(HEIGHT // 2, WIDTH), stride)]
    else:
        chroma = [padded(plane, stride // 2) for plane in (U, V)]
    return np.concatenate([padded(Y, stride), *chroma]), stride


def form(fourcc: str, stride: int) -> FrameFormat:
    return FrameFormat(fourcc, WIDTH, HEIGHT, stride, ColorRange.LIMITED, ColorMatrix.BT601)


@pytest.mark.parametrize("padding", [0, 8])
@pytest.mark.parametrize("fourcc", ["YUYV", "NV12", "YU12"])
def test_planes_are_found_in_place(fourcc: str, padding: int) -> None:
    data, stride = buffer_of(fourcc, padding)
    shown = picture(data, form(fourcc, stride))
    y = np.zeros((HEIGHT, WIDTH), np.uint8)
    u, v = np.zeros_like(U), np.zeros_like(V)
    copy_picture(shown, y, u, v)
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(u, U)
    np.testing.assert_array_equal(v, V)
    assert all(np.shares_memory(plane, data) for plane in shown.planes)


@pytest.mark.parametrize("fourcc", ["YUYV", "NV12", "YU12"])
def test_buffers_that_are_a_byte_too_short_are_rejected(fourcc: str) -> None:
    data, stride = buffer_of(fourcc, 8)
    needed = form(fourcc, stride).needed_bytes
    # the last row's padding need not be there, everything else must
    assert needed == data.size - (4 if fourcc == "YU12" else 8)
    picture(data[:needed].copy(), form(fourcc, stride))
    with pytest.raises(ValueError, match="needs"):
        picture(data[: needed - 1], form(fourcc, stride))


def test_jpegs_have_no_planes() -> None:
    data, stride = buffer_of("YUYV", 0)
    with pytest.raises(ValueError, match="compressed"):
        picture(data, replace(form("YUYV", stride), fourcc="MJPG"))


@pytest.mark.parametrize(
    ("colorspace", "encoding", "quantization", "expected"),
    [
        (8, 0, 0, (ColorRange.LIMITED, ColorMatrix.BT601)),  # sRGB, as most USB cameras report
        (7, 0, 0, (ColorRange.FULL, ColorMatrix.BT601)),  # JPEG
        (3, 0, 0, (ColorRange.LIMITED, ColorMatrix.BT709)),  # Rec. 709
        (10, 0, 0, (ColorRange.LIMITED, ColorMatrix.BT2020)),
        (8, 2, 1, (ColorRange.FULL, ColorMatrix.BT709)),  # explicit
        (3, 1, 2, (ColorRange.LIMITED, ColorMatrix.BT601)),
        (7, 0, 2, (ColorRange.LIMITED, ColorMatrix.BT601)),
    ],
)
def test_colour_range_and_matrix_are_those_of_the_driver(
    colorspace: int, encoding: int, quantization: int, expected: tuple[ColorRange, ColorMatrix]
) -> None:
    assert colors(colorspace, encoding, quantization) == expected


@pytest.mark.parametrize("used", [0, 5])
def test_a_buffer_that_the_driver_left_empty_is_damaged(
    monkeypatch: pytest.MonkeyPatch, used: int
) -> None:
    """Its bytes are those of an earlier picture, which was shown as if it were new."""
    filled = raw.v4l2_buffer(index=0, bytesused=used, sequence=3)
    monkeypatch.setattr(device, "call", lambda *_: filled)
    opened = object.__new__(device.Device)
    opened._fd, opened._type = -1, device._SINGLE
    opened._maps = [mmap.mmap(-1, 4096)]
    buffer = opened.dequeue()
    assert buffer is not None
    assert (buffer.data.size, buffer.damaged) == (used, used == 0)
