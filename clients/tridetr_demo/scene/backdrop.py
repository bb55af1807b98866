"""Parts that all backgrounds share: their description, gradients, windows and lens effects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tridetr_demo.scene.pen import Colour, shade


@dataclass(frozen=True)
class Background:
    """A background, and the geometry for placing things in it.

    Attributes:
        rgb: uint8 [H, W, 3].
        floor_y: Where the ground meets the wall, in pixels from the top.
        horizon_y: The vanishing line in pixels from the top.
        road: Top and bottom of the road in pixels, or None in a hall.
        light: Side that the light comes from, -1 left .. 1 right.
    """

    rgb: NDArray[np.uint8]
    floor_y: int
    horizon_y: int
    road: tuple[int, int] | None
    light: float


def gradient(
    image: Image.Image, box: tuple[int, int, int, int], top: Colour, bottom: Colour
) -> None:
    width, height = box[2] - box[0], box[3] - box[1]
    if width < 1 or height < 1:
        return
    ramp = np.linspace(np.array(top, np.float32), np.array(bottom, np.float32), height)
    column = Image.fromarray(ramp.astype(np.uint8)[:, None, :])
    image.paste(column.resize((width, height)), box[:2])


def window(
    draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], glass: Colour, frame: Colour
) -> None:
    x0, y0, x1, y1 = box
    border = max(1.0, (x1 - x0) * 0.06)
    draw.rectangle([x0 - border, y0 - border, x1 + border, y1 + border], fill=frame)
    draw.rectangle(box, fill=glass)
    draw.polygon(
        [(x0, y0), (x0 + (x1 - x0) * 0.5, y0), (x0, y0 + (y1 - y0) * 0.6)], fill=shade(glass, 1.15)
    )
    draw.line([(x0 + x1) / 2, y0, (x0 + x1) / 2, y1], fill=frame, width=max(1, round(border * 0.7)))


def add_lens(image: Image.Image, rng: np.random.Generator, strength: float) -> NDArray[np.uint8]:
    """Add grain, light pools and the darker corners of a lens."""
    width, height = image.size
    pixels = np.asarray(image, dtype=np.float32)
    coarse = rng.normal(0.0, 1.0, (6, 9)).astype(np.float32)
    pools = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    lens = 1.0 - 0.16 * (x * x + y * y) / 2
    grain = rng.normal(0.0, strength, (height, width)).astype(np.float32)
    lit = pixels * (lens * (1.0 + 0.05 * pools))[..., None] + grain[..., None]
    return np.clip(lit, 0, 255).astype(np.uint8)
