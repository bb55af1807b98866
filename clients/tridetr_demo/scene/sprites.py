"""Draw sprites and shadows over I420 frames, changing only their own pixels, and over RGB pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tridetr_demo.scene.i420 import RGB_TO_YUV


@dataclass(frozen=True)
class _Layer:
    """One plane of a sprite.

    Attributes:
        colour: uint8 [h, w], already multiplied by the opacity.
        clear: uint16 [h, w], transparency, 0..256.
    """

    colour: NDArray[np.uint8]
    clear: NDArray[np.uint16]

    def lay(self, plane: NDArray[np.uint8], top: int, left: int) -> None:
        y0, x0 = max(0, top), max(0, left)
        y1 = min(plane.shape[0], top + self.colour.shape[0])
        x1 = min(plane.shape[1], left + self.colour.shape[1])
        if y0 >= y1 or x0 >= x1:
            return
        part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        below = plane[y0:y1, x0:x1]
        mixed = below * self.clear[part]
        mixed >>= 8
        np.add(mixed, self.colour[part], out=below, casting="unsafe")

    def mirrored(self) -> _Layer:
        return _Layer(self.colour[:, ::-1], self.clear[:, ::-1])


@dataclass(frozen=True)
class Sprite:
    """A picture with opacity, prepared for drawing over I420 planes at even positions.

    Attributes:
        layers: Y, U and V.
        size_wh: Even width and height in pixels.
        box: Extent of the object, xyxy in sprite pixels, without its shadow.
    """

    layers: tuple[_Layer, _Layer, _Layer]
    size_wh: tuple[int, int]
    box: tuple[int, int, int, int]

    @classmethod
    def from_rgba(cls, rgba: NDArray[np.uint8], *, shadow: float = 0.0) -> Sprite:
        """Convert a tightly cropped RGBA picture.

        Args:
            rgba: uint8 [h, w, 4], straight alpha.
            shadow: Strength of the soft shadow on the ground at its foot; 0 for none.
        """
        height, width = rgba.shape[:2]
        side = (round(width * 0.2) + 1) // 2 * 2 if shadow else 0
        below = (round(width * 0.09) + 3) // 2 * 2 if shadow else 0
        padded = np.zeros(
            (height + below + height % 2, width + 2 * side + width % 2, 4), np.float32
        )
        if shadow:
            _add_shadow(padded, side + width / 2, height - 1, width, shadow)
        alpha = rgba[..., 3:].astype(np.float32) / 255
        region = padded[:height, side : side + width]
        region[..., :3] = region[..., :3] * (1 - alpha) + rgba[..., :3] * alpha
        region[..., 3:] = alpha + region[..., 3:] * (1 - alpha)
        total_h, total_w = padded.shape[:2]
        blocks = padded.reshape(total_h // 2, 2, total_w // 2, 2, 4).mean(axis=(1, 3))
        return cls(
            (_layer(padded, 0), _layer(blocks, 1), _layer(blocks, 2)),
            (total_w, total_h),
            (side, 0, side + width, height),
        )

    def mirrored(self) -> Sprite:
        """Return the mirrored sprite, which shares the memory."""
        y, u, v = (layer.mirrored() for layer in self.layers)
        x0, y0, x1, y1 = self.box
        return Sprite((y, u, v), self.size_wh, (self.size_wh[0] - x1, y0, self.size_wh[0] - x0, y1))

    def lay(self, planes: tuple[NDArray[np.uint8], ...], left: int, top: int) -> None:
        """Draw the sprite over Y, U and V planes, in place; parts outside of the frame are cut off.

        Args:
            planes: uint8 [H, W], [H/2, W/2], [H/2, W/2].
            left: Even column of its left edge in luma pixels.
            top: Even row of its upper edge.
        """
        for layer, plane, divisor in zip(self.layers, planes, (1, 2, 2), strict=True):
            layer.lay(plane, top // divisor, left // divisor)


def _layer(premultiplied: NDArray[np.float32], channel: int) -> _Layer:
    alpha = premultiplied[..., 3]
    offset = 128.0 if channel else 0.0
    value = premultiplied[..., :3] @ RGB_TO_YUV[channel] + offset * alpha
    # Rounded so that the largest sum with the background fits into a byte
    return _Layer(
        np.clip(value, 0, 255).astype(np.uint8),
        np.clip((1 - alpha) * 256, 0, 256).astype(np.uint16),
    )


def _add_shadow(
    padded: NDArray[np.float32], x: float, y: float, width: float, strength: float
) -> None:
    rows = np.arange(padded.shape[0], dtype=np.float32)[:, None]
    columns = np.arange(padded.shape[1], dtype=np.float32)[None, :]
    distance = ((columns - x) / (width * 0.68)) ** 2 + ((rows - y) / (width * 0.09 + 1)) ** 2
    padded[..., 3] = strength * np.clip(1.0 - distance, 0.0, 1.0)


def blit_rgba(
    canvas: NDArray[np.uint8], rgba: NDArray[np.uint8], left: int, top: int
) -> tuple[slice, slice, NDArray[np.bool_]] | None:
    """Draw a sprite over the canvas [H, W, 3], in place.

    Returns:
        The rows and columns that it covers and the mask of the pixels that it hides, or None if it is outside.
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


def cast_shadow(canvas: NDArray[np.uint8], centre_x: float, foot_y: float, width: float) -> None:
    """Draw a soft elliptic shadow on the ground under an object of `width` pixels, in place."""
    half_w, half_h = max(2.0, width * 0.6), max(1.5, width * 0.13)
    x0, x1 = max(0, int(centre_x - half_w)), min(canvas.shape[1], int(centre_x + half_w) + 1)
    y0, y1 = max(0, int(foot_y - half_h)), min(canvas.shape[0], int(foot_y + half_h) + 1)
    if x0 >= x1 or y0 >= y1:
        return
    y = np.arange(y0, y1, dtype=np.float32)[:, None]
    x = np.arange(x0, x1, dtype=np.float32)[None, :]
    distance = ((x - centre_x) / half_w) ** 2 + ((y - foot_y) / half_h) ** 2
    keep = 1.0 - 0.4 * np.clip(1.0 - distance, 0.0, 1.0)
    canvas[y0:y1, x0:x1] = (canvas[y0:y1, x0:x1] * keep[..., None]).astype(np.uint8)
