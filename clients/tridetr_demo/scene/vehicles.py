"""Draw cars and bicycles."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tridetr_demo.scene.pen import PAINTS, Colour, Pen, finish, mix, pick_colour, shade

GLASS: Colour = (88, 112, 128)


def draw_car(
    rng: np.random.Generator,
    height: int,
    *,
    end_on: bool = False,
    mirrored: bool = False,
    light: float = 0.0,
) -> NDArray[np.uint8]:
    """Draw a car from the side, front or rear, about `height` pixels high; RGBA uint8 [h, w, 4], cropped tight."""
    paint = pick_colour(rng, PAINTS)
    if end_on:
        return _car_end_on(rng, height, paint, light)
    long = rng.uniform(2.3, 2.9)
    roof_from, roof_to = rng.uniform(0.2, 0.32) * long, rng.uniform(0.62, 0.9) * long
    if rng.random() < 0.15:  # a van
        roof_from, roof_to = 0.14 * long, 0.97 * long
    pen = Pen((int(height * long) + 4, height + 4), height, (2, 2))
    sill, belt = 0.8, rng.uniform(0.4, 0.46)
    front, back = roof_from - 0.28, min(long - 0.02, roof_to + 0.3)
    pen.rounded((0.02, belt + 0.03), (long - 0.02, sill + 0.04), 0.12, paint)
    pen.polygon([(front, belt + 0.1), (roof_from, 0.03), (roof_from + 0.1, 0.0), (roof_to - 0.08, 0.0), (roof_to, 0.03),
                 (back, belt + 0.1)], paint)  # fmt: skip
    glass = mix(GLASS, (20, 24, 30), float(rng.random()))
    middle = (roof_from + roof_to) / 2
    pen.polygon(
        [
            (front + 0.13, belt + 0.03),
            (roof_from + 0.05, 0.07),
            (middle - 0.03, 0.07),
            (middle - 0.03, belt + 0.03),
        ],
        glass,
    )
    pen.polygon(
        [
            (middle + 0.03, 0.07),
            (roof_to - 0.04, 0.07),
            (back - 0.13, belt + 0.03),
            (middle + 0.03, belt + 0.03),
        ],
        glass,
    )
    pen.rounded((0.04, 0.72), (long - 0.04, sill + 0.06), 0.05, shade(paint, 0.7))
    for x in (middle, middle - 0.62):
        pen.line([(x, belt + 0.06), (x, 0.76)], 0.012, shade(paint, 0.7))
    pen.line([(middle + 0.1, belt + 0.14), (middle + 0.22, belt + 0.14)], 0.03, shade(paint, 0.55))
    pen.rounded((0.02, belt + 0.1), (0.12, belt + 0.2), 0.03, (250, 240, 200))
    pen.rounded((long - 0.1, belt + 0.1), (long - 0.02, belt + 0.2), 0.03, (190, 30, 30))
    for x in (0.2 * long, 0.8 * long):
        pen.ellipse((x, 0.8), 0.225, 0.225, shade(paint, 0.35))
        pen.ellipse((x, 0.81), 0.19, 0.19, (26, 26, 28))
        pen.ellipse((x, 0.81), 0.105, 0.105, (150, 152, 156))
        pen.ellipse((x, 0.81), 0.035, 0.035, (70, 70, 74))
    return finish(pen, light, mirrored)


def _car_end_on(
    rng: np.random.Generator, height: int, paint: Colour, light: float
) -> NDArray[np.uint8]:
    wide = rng.uniform(1.15, 1.3)
    rear = rng.random() < 0.5
    pen = Pen((int(height * wide) + 4, height + 4), height, (2, 2))
    for x in (0.1 * wide, 0.74 * wide):
        pen.rounded((x, 0.66), (x + 0.16 * wide, 1.0), 0.04, (26, 26, 28))
    pen.polygon(
        [(0.2 * wide, 0.0), (0.8 * wide, 0.0), (0.93 * wide, 0.45), (0.07 * wide, 0.45)], paint
    )
    pen.rounded((0.0, 0.38), (wide, 0.86), 0.12, paint)
    pen.polygon(
        [(0.24 * wide, 0.05), (0.76 * wide, 0.05), (0.86 * wide, 0.38), (0.14 * wide, 0.38)], GLASS
    )
    lamp: Colour = (190, 30, 30) if rear else (250, 240, 200)
    for x in (0.05 * wide, 0.79 * wide):
        pen.rounded((x, 0.5), (x + 0.16 * wide, 0.6), 0.03, lamp)
    pen.rounded((0.3 * wide, 0.56), (0.7 * wide, 0.68), 0.02, shade(paint, 0.5))
    pen.rounded((0.38 * wide, 0.72), (0.62 * wide, 0.79), 0.01, (236, 236, 226))
    return finish(pen, light, False)


def draw_bicycle(
    rng: np.random.Generator, height: int, *, mirrored: bool = False, light: float = 0.0
) -> NDArray[np.uint8]:
    """Draw a parked bicycle from the side, about `height` pixels high; RGBA uint8 [h, w, 4], cropped tight."""
    paint = pick_colour(rng, PAINTS)
    pen = Pen((int(height * 1.75) + 4, height + 4), height, (2, 2))
    rear, front, axle = 0.36, 1.35, 0.66
    for x in (rear, front):
        pen.ring((x, axle), 0.335, 0.045, (28, 28, 30))
        for angle in np.arange(6) * math.pi / 6:
            dx, dy = 0.31 * math.cos(angle), 0.31 * math.sin(angle)
            pen.line([(x - dx, axle - dy), (x + dx, axle + dy)], 0.008, (120, 122, 126))
    crank, seat, head = (0.78, 0.7), (0.66, 0.2), (1.2, 0.22)
    for line in ([(rear, axle), crank, head], [(rear, axle), (0.68, 0.28), head], [seat, crank]):
        pen.line(line, 0.045, paint)
    pen.line([(front, axle), (1.17, 0.06)], 0.045, shade(paint, 0.8))
    pen.line([(1.05, 0.03), (1.17, 0.05), (1.27, 0.1)], 0.04, (30, 30, 32))
    pen.rounded((0.54, 0.15), (0.78, 0.21), 0.03, (40, 32, 28))
    pen.ellipse(crank, 0.08, 0.08, (60, 60, 64))
    return finish(pen, light, mirrored)
