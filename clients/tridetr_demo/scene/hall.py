"""Draw a hall: walls with doors, windows and pictures, and a tiled floor."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tridetr_demo.scene.backdrop import Background, add_lens, gradient, window
from tridetr_demo.scene.pen import mix, pick_colour, shade


def draw_hall(rng: np.random.Generator, size_wh: tuple[int, int]) -> Background:
    """Draw a hall or lobby: wall with doors, windows and pictures, skirting, and a floor in perspective."""
    width, height = size_wh
    image = Image.new("RGB", size_wh)
    draw = ImageDraw.Draw(image)
    wall = pick_colour(
        rng,
        (
            (208, 202, 190),
            (176, 188, 190),
            (220, 214, 206),
            (160, 150, 136),
            (196, 176, 150),
            (126, 138, 148),
        ),
    )
    floor = int(height * rng.uniform(0.36, 0.56))
    ceiling = int(height * rng.uniform(-0.05, 0.1))
    gradient(image, (0, 0, width, floor), shade(wall, 1.05), shade(wall, 0.9))
    if ceiling > 3:
        gradient(image, (0, 0, width, ceiling), (232, 230, 226), (208, 206, 202))
        for x in np.arange(0.1, 1.0, 0.25) * width:
            draw.rectangle(
                [x, ceiling * 0.3, x + width * 0.12, ceiling * 0.6], fill=(252, 250, 240)
            )
    x = width * rng.uniform(0.0, 0.08)
    while x < width:
        wide = width * rng.uniform(0.07, 0.2)
        kind = rng.random()
        top = ceiling + (floor - ceiling) * rng.uniform(0.12, 0.3)
        if kind < 0.3:  # a door
            door = pick_colour(rng, ((134, 96, 64), (92, 104, 112), (180, 172, 158), (74, 60, 52)))
            draw.rectangle([x - 3, top - 3, x + wide * 0.6 + 3, floor], fill=shade(door, 0.7))
            draw.rectangle([x, top, x + wide * 0.6, floor], fill=door)
            draw.rectangle(
                [
                    x + wide * 0.5,
                    top + (floor - top) * 0.52,
                    x + wide * 0.56,
                    top + (floor - top) * 0.56,
                ],
                fill=(220, 214, 200),
            )
        elif kind < 0.62:
            glass = pick_colour(rng, ((186, 212, 228), (214, 226, 230), (120, 146, 160)))
            window(draw, (x, top, x + wide, floor - (floor - top) * 0.3), glass, (236, 234, 228))
        elif kind < 0.82:  # a picture
            frame = pick_colour(rng, ((60, 50, 44), (200, 180, 130)))
            art = pick_colour(rng, ((170, 90, 70), (80, 120, 150), (190, 170, 110), (90, 130, 100)))
            draw.rectangle([x, top, x + wide * 0.6, top + (floor - top) * 0.45], fill=frame)
            draw.rectangle(
                [x + 4, top + 4, x + wide * 0.6 - 4, top + (floor - top) * 0.45 - 4], fill=art
            )
            draw.ellipse(
                [x + wide * 0.15, top + 8, x + wide * 0.4, top + (floor - top) * 0.3],
                fill=mix(art, (240, 230, 200), 0.5),
            )
        x += wide * rng.uniform(1.1, 1.8)
    draw.rectangle([0, floor - height * 0.018, width, floor], fill=shade(wall, 0.6))
    tile = pick_colour(
        rng, ((190, 182, 168), (150, 146, 142), (168, 130, 96), (120, 116, 118), (208, 202, 194))
    )
    gradient(image, (0, floor, width, height), shade(tile, 0.86), shade(tile, 1.08))
    vanish = (width * rng.uniform(0.3, 0.7), floor - height * rng.uniform(0.15, 0.3))
    joint = shade(tile, 0.88)
    for depth in np.arange(1, 14):
        y = vanish[1] + (height - vanish[1]) / (0.2 * depth + 0.8)
        if y > floor:
            draw.line([0, y, width, y], fill=joint, width=1)
    for foot in np.arange(-2, 3, rng.uniform(0.1, 0.18)) * width:
        start = vanish[0] + (foot - vanish[0]) * (floor - vanish[1]) / (height - vanish[1])
        draw.line([start, floor, foot, height], fill=joint, width=1)
    for _ in range(int(rng.integers(0, 4))):  # light falling through windows
        left, shift = rng.uniform(0, 0.9) * width, rng.uniform(-0.12, 0.12) * width
        pool = Image.new("L", size_wh)
        ImageDraw.Draw(pool).polygon(
            [
                (left, floor + 6),
                (left + width * 0.12, floor + 6),
                (left + width * 0.16 + shift, height * 0.9),
                (left + shift, height * 0.9),
            ],
            fill=46,
        )
        image.paste((255, 250, 226), mask=pool.filter(ImageFilter.GaussianBlur(width / 160)))
    rgb = add_lens(
        image.filter(ImageFilter.GaussianBlur(width / 1100)), rng, float(rng.uniform(1.0, 4.0))
    )
    return Background(rgb, floor, int(vanish[1]), None, float(rng.uniform(-1, 1)))
