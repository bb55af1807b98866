"""Colours of drawn things, and how a drawn thing becomes a sprite."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tridetr.scene.pen import Colour, Pen, crop_to_content, light_from_side

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


def pick_colour(rng: np.random.Generator, choices: tuple[Colour, ...]) -> Colour:
    """One of the choices, a little changed."""
    base = np.clip(np.array(choices[rng.integers(len(choices))]) + rng.integers(-15, 16, 3), 5, 250)
    return int(base[0]), int(base[1]), int(base[2])


def finish(pen: Pen, light: float, mirrored: bool) -> NDArray[np.uint8]:
    """The picture cropped tight, lit from one side, RGBA uint8 [h, w, 4]."""
    sprite = crop_to_content(pen.finish())
    return light_from_side(sprite[:, ::-1] if mirrored else sprite, light)
