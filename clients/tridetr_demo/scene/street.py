"""Draw a street: houses, pavement and road, by day and by night."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tridetr_demo.scene.backdrop import Background, add_lens, gradient, window
from tridetr_demo.scene.pen import Colour, pick_colour, shade

WALLS: tuple[Colour, ...] = (
    (168, 122, 100), (196, 182, 160), (150, 152, 156), (206, 196, 178), (124, 92, 82), (176, 168, 150), (136, 146, 150),
    (198, 160, 128), (106, 108, 112), (222, 214, 200),
)  # fmt: skip
SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((112, 164, 214), (206, 226, 238)), ((176, 184, 192), (214, 218, 222)), ((92, 110, 150), (232, 180, 140)),
    ((22, 28, 48), (56, 62, 88)),
)  # fmt: skip


def _house(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, box: tuple[int, int, int, int], night: bool
) -> None:
    x0, top, x1, base = box
    wall = pick_colour(rng, WALLS)
    frame = pick_colour(rng, ((232, 228, 220), (70, 66, 62), (120, 100, 84)))
    if night:
        wall = shade(wall, 0.45)
    draw.rectangle([x0, top, x1, base], fill=wall)
    draw.rectangle([x0 - 3, top - 4, x1 + 3, top + 3], fill=shade(wall, 0.75))
    height = base - top
    ground = base - int(height * rng.uniform(0.3, 0.42))
    draw.rectangle([x0, ground - 2, x1, ground + 2], fill=shade(wall, 0.82))
    count = int(rng.integers(2, 5))
    step = (x1 - x0) / count
    for row_y in np.arange(top + height * 0.06, ground - height * 0.2, height * 0.26):
        for column in range(count):
            lit = night and rng.random() < 0.5
            glass: Colour = (
                (236, 200, 128)
                if lit
                else pick_colour(rng, ((74, 92, 108), (104, 124, 138), (58, 66, 78)))
            )
            left = x0 + step * (column + 0.26)
            window(draw, (left, row_y, left + step * 0.48, row_y + height * 0.17), glass, frame)
    for column in range(count):
        left, right = x0 + step * (column + 0.12), x0 + step * (column + 0.88)
        if rng.random() < 0.4:
            door = pick_colour(rng, ((96, 54, 40), (52, 74, 92), (60, 84, 66), (110, 40, 44)))
            middle, half = (left + right) / 2, step * 0.2
            draw.rectangle(
                [middle - half - 3, ground + height * 0.05, middle + half + 3, base], fill=frame
            )
            draw.rectangle([middle - half, ground + height * 0.07, middle + half, base], fill=door)
            draw.rectangle(
                [
                    middle - half * 0.6,
                    ground + height * 0.1,
                    middle + half * 0.6,
                    ground + height * 0.18,
                ],
                fill=shade(door, 1.3),
            )
        else:
            shop: Colour = (
                (240, 214, 150)
                if night
                else pick_colour(rng, ((86, 106, 116), (128, 146, 150), (70, 78, 88)))
            )
            window(draw, (left, ground + height * 0.09, right, base - height * 0.07), shop, frame)
            if rng.random() < 0.5:
                awning = pick_colour(
                    rng, ((170, 60, 54), (60, 104, 92), (200, 160, 80), (70, 84, 130))
                )
                y = ground + height * 0.03
                draw.polygon(
                    [
                        (left, y),
                        (right, y),
                        (right + step * 0.06, y + height * 0.09),
                        (left - step * 0.06, y + height * 0.09),
                    ],
                    fill=awning,
                )


def draw_street(
    rng: np.random.Generator, size_wh: tuple[int, int], *, daylight: bool = False
) -> Background:
    """Draw a street seen from across the road: sky, a row of houses, pavement, kerb and road."""
    width, height = size_wh
    image = Image.new("RGB", size_wh)
    draw = ImageDraw.Draw(image)
    sky = SKIES[rng.integers(2 if daylight else len(SKIES))]
    night = sky is SKIES[3]
    floor = int(height * (rng.uniform(0.42, 0.55)))
    gradient(image, (0, 0, width, floor), *sky)
    x = -int(rng.uniform(0, 0.15) * width)
    while x < width:
        wide = int(width * rng.uniform(0.2, 0.4))
        _house(draw, rng, (x, int(height * rng.uniform(-0.12, 0.14)), x + wide, floor), night)
        x += wide + (int(width * rng.uniform(0.03, 0.08)) if rng.random() < 0.25 else 0)
    dim = 0.5 if night else 1.0
    paving = shade(pick_colour(rng, ((160, 154, 146), (142, 142, 142), (172, 160, 142))), dim)
    tar = shade(pick_colour(rng, ((74, 76, 80), (92, 92, 92), (60, 62, 66))), dim)
    kerb = int(height * rng.uniform(0.66, 0.76))
    far = int(height * rng.uniform(1.0, 1.25))
    gradient(image, (0, floor, width, kerb), shade(paving, 0.92), shade(paving, 1.06))
    rows = floor + (kerb - floor) * np.linspace(0, 1, 6) ** 1.5
    vanish = (width * rng.uniform(0.3, 0.7), floor - height * 0.5)
    for row in rows[1:-1]:
        draw.line([0, row, width, row], fill=shade(paving, 0.88), width=1)
    for foot in np.arange(-width, 2 * width, width * 0.07):
        start = vanish[0] + (foot - vanish[0]) * (floor - vanish[1]) / (kerb - vanish[1])
        draw.line([start, floor, foot, kerb], fill=shade(paving, 0.9), width=1)
    draw.rectangle([0, kerb, width, kerb + height * 0.012], fill=shade(paving, 1.15))
    draw.rectangle([0, kerb + height * 0.012, width, kerb + height * 0.03], fill=shade(paving, 0.7))
    road_top = kerb + int(height * 0.03)
    gradient(image, (0, road_top, width, height), shade(tar, 0.92), shade(tar, 1.12))
    lane, thick = (road_top + far) / 2, height * 0.014
    for dash in np.arange(-0.1, 1.1, 0.16) * width + rng.uniform(0, 0.1) * width:
        right = dash + width * 0.08
        ends = [
            (dash, lane),
            (right, lane),
            (right + thick / 2, lane + thick),
            (dash, lane + thick),
        ]
        draw.polygon(ends, fill=shade((222, 218, 206), dim))
    rgb = add_lens(
        image.filter(ImageFilter.GaussianBlur(width / 1100)), rng, float(rng.uniform(1.0, 4.0))
    )
    horizon = floor - int(height * 0.16)
    return Background(rgb, floor, horizon, (road_top, height), float(rng.uniform(-1, 1)))
