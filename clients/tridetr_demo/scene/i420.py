"""Convert between I420 and RGB (full-range BT.601, like JPEG), and to the picture that a model sees."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from tridetr.i420 import planes, require_even

# Rows give Y, Cb, Cr of full-range BT.601; the chroma rows get 128 added.
RGB_TO_YUV = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)  # fmt: skip
YUV_TO_RGB = np.array(
    [[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]], np.float32
)


def rgb_to_i420(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert RGB uint8 [H, W, 3] to an I420 frame uint8 [3H/2, W]; chroma is the mean of each 2x2 block."""
    height, width = rgb.shape[:2]
    require_even(width, height)
    frame = np.empty((height * 3 // 2, width), np.uint8)
    luma, u, v = planes(frame)
    pixels = rgb.astype(np.float32)
    luma[:] = (pixels @ RGB_TO_YUV[0] + 0.5).astype(np.uint8)
    blocks = pixels.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
    u[:] = np.clip(blocks @ RGB_TO_YUV[1] + 128.5, 0, 255).astype(np.uint8)
    v[:] = np.clip(blocks @ RGB_TO_YUV[2] + 128.5, 0, 255).astype(np.uint8)
    return frame


@functools.lru_cache(maxsize=64)
def _taps(
    source: int, target: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return left and right source index, and the weight of the right one, for half-pixel bilinear sampling."""
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    left = np.floor(position).astype(np.intp)
    return left, np.minimum(left + 1, source - 1), (position - left).astype(np.float32)


def _stretch(plane: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    top, bottom, down = _taps(plane.shape[0], side)
    left, right, across = _taps(plane.shape[1], side)
    rows = plane[top] * (1 - down)[:, None] + plane[bottom] * down[:, None]
    return np.asarray(rows[:, left] * (1 - across) + rows[:, right] * across, np.float32)


def model_view(frame: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Convert a frame to the picture that a model with a square input sees.

    Each plane is resized bilinearly without antialiasing, then the colours are converted.

    Args:
        frame: I420, uint8 [3H/2, W].
        side: Side of the square in pixels.

    Returns:
        RGB uint8 [side, side, 3].
    """
    luma, u, v = (_stretch(plane, side) for plane in planes(frame))
    yuv = np.stack([luma, u - 128.0, v - 128.0], axis=-1)
    rgb: NDArray[np.uint8] = np.clip(yuv @ YUV_TO_RGB.T + 0.5, 0, 255).astype(np.uint8)
    return rgb
