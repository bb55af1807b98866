"""Draw with antialiasing: a Pillow canvas of twice the size, in unit coordinates, with a few round shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
SUPERSAMPLING = 2
PAINTS: tuple[Colour, ...] = (
    (196, 44, 40), (38, 70, 128), (232, 232, 230), (52, 54, 58), (158, 162, 166), (70, 110, 84), (216, 168, 52),
    (120, 36, 48), (110, 148, 178), (24, 26, 30),
)  # fmt: skip
FURS: tuple[Colour, ...] = (
    (60, 44, 34),
    (150, 108, 66),
    (214, 190, 150),
    (36, 34, 34),
    (226, 222, 214),
    (120, 74, 44),
)


def shade(colour: Colour, factor: float) -> Colour:
    """Make a colour darker (factor < 1) or lighter (factor > 1), with each channel clipped to 0..255."""
    red, green, blue = (max(0, min(255, round(channel * factor))) for channel in colour)
    return red, green, blue


def mix(first: Colour, second: Colour, amount: float) -> Colour:
    """Blend two colours linearly: `first` at amount 0, `second` at amount 1."""
    red, green, blue = (round(a + (b - a) * amount) for a, b in zip(first, second, strict=True))
    return red, green, blue


class Pen:
    """Draws in unit coordinates on a transparent RGBA canvas that is scaled down at the end.

    Args:
        size_wh: Width and height of the finished picture in pixels.
        unit: Pixels of the finished picture per unit.
        origin: Position of the unit point (0, 0) in pixels of the finished picture.
    """

    def __init__(self, size_wh: tuple[int, int], unit: float, origin: Point = (0.0, 0.0)) -> None:
        self.size_wh = size_wh
        self._scale = unit * SUPERSAMPLING
        self._origin = (origin[0] * SUPERSAMPLING, origin[1] * SUPERSAMPLING)
        big = (size_wh[0] * SUPERSAMPLING, size_wh[1] * SUPERSAMPLING)
        self._image = Image.new("RGBA", big, (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self._image)

    def _at(self, point: Point) -> Point:
        return (point[0] * self._scale + self._origin[0], point[1] * self._scale + self._origin[1])

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        self._draw.polygon([self._at(point) for point in points], fill=(*fill, 255))

    def ellipse(self, centre: Point, half_width: float, half_height: float, fill: Colour) -> None:
        x, y = self._at(centre)
        a, b = half_width * self._scale, half_height * self._scale
        self._draw.ellipse([x - a, y - b, x + a, y + b], fill=(*fill, 255))

    def ring(self, centre: Point, radius: float, width: float, fill: Colour) -> None:
        x, y = self._at(centre)
        r = radius * self._scale
        line = max(1, round(width * self._scale))
        self._draw.ellipse([x - r, y - r, x + r, y + r], outline=(*fill, 255), width=line)

    def rounded(self, top_left: Point, bottom_right: Point, radius: float, fill: Colour) -> None:
        x0, y0 = self._at(top_left)
        x1, y1 = self._at(bottom_right)
        if x1 - x0 < 1 or y1 - y0 < 1:
            return
        self._draw.rounded_rectangle([x0, y0, x1, y1], radius * self._scale, fill=(*fill, 255))

    def line(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        pixels = max(1, round(width * self._scale))
        self._draw.line(
            [self._at(p) for p in points], fill=(*fill, 255), width=pixels, joint="curve"
        )

    def capsule(self, start: Point, end: Point, start_r: float, end_r: float, fill: Colour) -> None:
        """Draw a limb: two circles and the tapered band between them; radii in units."""
        self.ellipse(start, start_r, start_r, fill)
        self.ellipse(end, end_r, end_r, fill)
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = math.hypot(dx, dy)
        if length < 1e-6:
            return
        nx, ny = -dy / length, dx / length
        self.polygon(
            [
                (start[0] + nx * start_r, start[1] + ny * start_r),
                (end[0] + nx * end_r, end[1] + ny * end_r),
                (end[0] - nx * end_r, end[1] - ny * end_r),
                (start[0] - nx * start_r, start[1] - ny * start_r),
            ],
            fill,
        )

    def finish(self) -> NDArray[np.uint8]:
        """Return the picture, uint8 [H, W, 4] RGBA with straight alpha."""
        # Scaling premultiplied colours keeps the transparent black out of the edges
        reduced = self._image.convert("RGBa").reduce(SUPERSAMPLING).convert("RGBA")
        return np.asarray(reduced)


def crop_to_content(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Crop an RGBA picture [H, W, 4] to the part whose alpha is at least 64."""
    solid = rgba[..., 3] >= 64
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    if rows.size == 0:
        raise ValueError("the picture is empty: nothing was drawn on it")
    return rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def light_from_side(rgba: NDArray[np.uint8], direction: float) -> NDArray[np.uint8]:
    """Shade a flat sprite: brighter towards the light (-1 left .. 1 right), darker away from it."""
    width = rgba.shape[1]
    ramp = 1.0 + 0.18 * direction * np.linspace(-1.0, 1.0, width, dtype=np.float32)
    lit: NDArray[np.uint8] = rgba.copy()
    lit[..., :3] = np.minimum(rgba[..., :3] * ramp[None, :, None], 255).astype(np.uint8)
    return lit


def pick_colour(rng: np.random.Generator, choices: tuple[Colour, ...]) -> Colour:
    """Return one of the colours at random, slightly changed."""
    base = np.clip(np.array(choices[rng.integers(len(choices))]) + rng.integers(-15, 16, 3), 5, 250)
    return int(base[0]), int(base[1]), int(base[2])


def finish(pen: Pen, light: float, mirrored: bool) -> NDArray[np.uint8]:
    """Return the picture, cropped tight and lit from one side, RGBA uint8 [h, w, 4]."""
    sprite = crop_to_content(pen.finish())
    return light_from_side(sprite[:, ::-1] if mirrored else sprite, light)
