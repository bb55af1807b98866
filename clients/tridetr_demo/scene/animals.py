"""Draw dogs."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tridetr_demo.scene.pen import FURS, PAINTS, Pen, finish, pick_colour, shade


def draw_dog(
    rng: np.random.Generator,
    height: int,
    *,
    phase: float,
    mirrored: bool = False,
    light: float = 0.0,
) -> NDArray[np.uint8]:
    """Draw a walking dog from the side, facing right unless mirrored; RGBA uint8 [h, w, 4], cropped tight."""
    fur = pick_colour(rng, FURS)
    dark, ear = shade(fur, 0.75), shade(fur, 0.6)
    stout = rng.uniform(0.85, 1.25)
    pen = Pen((int(height * 1.9) + 4, int(height * 1.1) + 4), height, (height * 0.2, 2))
    swing = 0.13 * math.sin(phase)
    for x, move, tone in (
        (0.3, -swing, dark),
        (1.0, swing, dark),
        (0.24, swing, fur),
        (0.94, -swing, fur),
    ):
        pen.capsule((x, 0.55), (x + move, 0.93), 0.075, 0.045, tone)
        pen.capsule((x + move, 0.95), (x + move + 0.07, 0.96), 0.04, 0.035, tone)
    wag = 0.06 * math.sin(2 * phase)
    pen.capsule((0.16, 0.4), (-0.06 + wag, 0.14), 0.05, 0.025, fur)
    pen.capsule((0.3, 0.48), (0.95, 0.46), 0.17 * stout, 0.19 * stout, fur)
    pen.capsule((1.0, 0.38), (1.16, 0.2), 0.13, 0.11, fur)
    pen.ellipse((1.2, 0.19), 0.15, 0.13, fur)
    pen.capsule((1.26, 0.23), (1.42, 0.26), 0.075, 0.055, fur)
    pen.ellipse((1.47, 0.245), 0.03, 0.025, (24, 20, 20))
    pen.ellipse((1.25, 0.16), 0.02, 0.02, (24, 20, 20))
    pen.capsule((1.12, 0.1), (1.07, 0.27), 0.05, 0.04, ear)
    if rng.random() < 0.5:
        pen.line([(1.0, 0.24), (1.16, 0.36)], 0.045, pick_colour(rng, PAINTS))
    return finish(pen, light, mirrored)
