"""The planes of an I420 frame. Pure functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def require_even(width: int, height: int) -> None:
    """Check that a size fits I420, whose chroma planes halve both sides.

    Raises:
        ValueError: width or height is odd or not positive.
    """
    if width < 2 or height < 2 or width % 2 or height % 2:
        raise ValueError(f"I420 needs an even, positive width and height, got {width}x{height}")


def planes(
    frame: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Return views of the Y [H, W], U and V [H/2, W/2] planes of a contiguous I420 frame [3H/2, W].

    >>> [plane.shape for plane in planes(np.zeros((6, 8), np.uint8))]
    [(4, 8), (2, 4), (2, 4)]

    Raises:
        ValueError: the size is odd, or the array is not a contiguous I420 frame.
    """
    height, width = frame.shape[0] * 2 // 3, frame.shape[1]
    require_even(width, height)
    if frame.shape[0] * 2 != height * 3 or not frame.flags.c_contiguous:
        raise ValueError(f"expected a contiguous I420 frame [3H/2, W], got shape {frame.shape}")
    quarter = (height // 2) * (width // 2)
    flat = frame.reshape(-1)[height * width :]
    chroma = (height // 2, width // 2)
    return frame[:height], flat[:quarter].reshape(chroma), flat[quarter:].reshape(chroma)
