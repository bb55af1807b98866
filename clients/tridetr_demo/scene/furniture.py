"""Draw the furniture of streets and halls."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tridetr_demo.scene.pen import PAINTS, Pen, crop_to_content, pick_colour, shade


def draw_furniture(rng: np.random.Generator, kind: str, height: int) -> NDArray[np.uint8]:
    """Draw a piece of furniture; RGBA uint8 [h, w, 4], cropped tight.

    Args:
        rng: Random generator, for its colours and proportions.
        kind: bench, planter, bin, bollard, post, tree, sign, column, desk or case.
        height: Its height in pixels.

    Raises:
        ValueError: The kind is unknown.
    """
    pen = Pen((height * 3 + 4, height + 4), height, (height * 1.5 + 2, 2))
    wood = pick_colour(rng, ((126, 88, 56), (150, 112, 76), (96, 70, 50)))
    metal = pick_colour(rng, ((60, 64, 70), (96, 100, 104), (44, 60, 52)))
    green = pick_colour(rng, ((62, 104, 58), (84, 126, 70), (48, 84, 60)))
    if kind == "bench":
        for x in (-0.95, 0.85):
            pen.rounded((x, 0.4), (x + 0.1, 1.0), 0.01, metal)
        for y in (0.02, 0.2, 0.45):
            pen.rounded((-1.1, y), (1.1, y + 0.13), 0.02, wood)
    elif kind == "planter":
        for _ in range(14):
            x, y, r = rng.uniform(-0.34, 0.34), rng.uniform(0.12, 0.5), rng.uniform(0.08, 0.16)
            pen.ellipse((x, y), r, r * 0.8, shade(green, rng.uniform(0.7, 1.25)))
        pen.polygon(
            [(-0.36, 0.5), (0.36, 0.5), (0.29, 1.0), (-0.29, 1.0)],
            pick_colour(rng, ((150, 92, 70), (120, 122, 124), (70, 72, 76))),
        )
    elif kind == "bin":
        pen.rounded((-0.25, 0.05), (0.25, 1.0), 0.05, metal)
        pen.rounded((-0.29, 0.0), (0.29, 0.14), 0.05, shade(metal, 0.7))
    elif kind == "bollard":
        pen.rounded((-0.09, 0.0), (0.09, 1.0), 0.08, metal)
        pen.rounded((-0.09, 0.15), (0.09, 0.25), 0.0, (226, 220, 210))
    elif kind == "post":
        pen.rounded((-0.014, 0.06), (0.014, 1.0), 0.0, metal)
        pen.rounded((-0.03, 0.86), (0.03, 1.0), 0.01, metal)
        pen.line([(0.0, 0.07), (0.16, 0.02)], 0.02, metal)
        pen.rounded((0.1, 0.0), (0.22, 0.04), 0.01, (240, 232, 200))
    elif kind == "tree":
        pen.rounded((-0.035, 0.45), (0.035, 1.0), 0.0, wood)
        for _ in range(22):
            x, y, r = rng.normal(0, 0.15), rng.uniform(0.12, 0.5), rng.uniform(0.07, 0.14)
            pen.ellipse((x, y), r, r, shade(green, rng.uniform(0.75, 1.2)))
    elif kind == "sign":
        pen.rounded((-0.015, 0.2), (0.015, 1.0), 0.0, metal)
        pen.ellipse((0.0, 0.13), 0.12, 0.12, pick_colour(rng, PAINTS))
        pen.ellipse((0.0, 0.13), 0.08, 0.08, (240, 240, 236))
    elif kind == "column":
        tone = pick_colour(rng, ((190, 186, 178), (150, 152, 156), (206, 198, 184)))
        pen.rounded((-0.05, 0.0), (0.05, 1.0), 0.0, tone)
        pen.rounded((-0.05, 0.0), (-0.02, 1.0), 0.0, shade(tone, 0.85))
    elif kind == "desk":
        pen.rounded((-1.2, 0.0), (1.2, 0.12), 0.02, shade(wood, 1.2))
        pen.rounded((-1.12, 0.12), (1.12, 1.0), 0.02, wood)
    elif kind == "case":
        pen.rounded((-0.14, 0.0), (-0.1, 0.4), 0.0, metal)
        pen.rounded((0.1, 0.0), (0.14, 0.4), 0.0, metal)
        pen.rounded((-0.3, 0.3), (0.3, 0.96), 0.06, pick_colour(rng, PAINTS))
    else:
        raise ValueError(f"unknown furniture {kind!r}")
    return crop_to_content(pen.finish())
