"""Laying sprites and shadows over an RGB picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def blit_rgba(
    canvas: NDArray[np.uint8], rgba: NDArray[np.uint8], left: int, top: int
) -> tuple[slice, slice, NDArray[np.bool_]] | None:
    """Lays a sprite over the canvas [H, W, 3] in place.

    Returns:
        The rows and columns it covers and which pixels there it hides, or None when it lies outside.
    """
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(canvas.shape[0], top + rgba.shape[0]), min(canvas.shape[1], left + rgba.shape[1])
    if y0 >= y1 or x0 >= x1:
        return None
    part = rgba[y0 - top : y1 - top, x0 - left : x1 - left]
    alpha = part[..., 3:].astype(np.uint16)
    target = canvas[y0:y1, x0:x1]
    target[:] = ((part[..., :3] * alpha + target * (255 - alpha) + 127) // 255).astype(np.uint8)
    return slice(y0, y1), slice(x0, x1), part[..., 3] >= 128


def cast_shadow(
    canvas: NDArray[np.uint8], centre_x: float, foot_y: float, width: float, strength: float = 0.4
) -> None:
    """A soft ellipse of shade on the ground under something `width` pixels wide, in place."""
    half_w, half_h = max(2.0, width * 0.6), max(1.5, width * 0.13)
    x0, x1 = max(0, int(centre_x - half_w)), min(canvas.shape[1], int(centre_x + half_w) + 1)
    y0, y1 = max(0, int(foot_y - half_h)), min(canvas.shape[0], int(foot_y + half_h) + 1)
    if x0 >= x1 or y0 >= y1:
        return
    y, x = (
        np.arange(y0, y1, dtype=np.float32)[:, None],
        np.arange(x0, x1, dtype=np.float32)[None, :],
    )
    distance = ((x - centre_x) / half_w) ** 2 + ((y - foot_y) / half_h) ** 2
    keep = 1.0 - strength * np.clip(1.0 - distance, 0.0, 1.0)
    canvas[y0:y1, x0:x1] = (canvas[y0:y1, x0:x1] * keep[..., None]).astype(np.uint8)
