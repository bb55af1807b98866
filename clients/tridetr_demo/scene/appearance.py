"""Choose the appearance of drawn people at random: skin, hair, clothes, hats and bags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tridetr_demo.scene.pen import Colour

SKINS: tuple[Colour, ...] = (
    (247, 215, 188), (236, 192, 150), (217, 164, 118), (188, 131, 88), (148, 96, 62), (108, 68, 45), (76, 49, 36),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (28, 24, 22), (58, 40, 28), (96, 62, 36), (150, 104, 58), (206, 172, 110), (168, 164, 160), (120, 52, 30),
)  # fmt: skip
CLOTHES: tuple[Colour, ...] = (
    (36, 40, 52), (58, 62, 70), (230, 230, 226), (186, 60, 52), (44, 84, 140), (64, 116, 84), (214, 170, 60),
    (122, 74, 116), (196, 116, 64), (120, 152, 180), (160, 150, 132), (90, 60, 48), (232, 150, 160), (32, 104, 116),
)  # fmt: skip
TROUSERS: tuple[Colour, ...] = (
    (34, 42, 66), (52, 70, 108), (40, 40, 44), (84, 82, 80), (140, 122, 92), (92, 74, 58), (196, 190, 178),
    (66, 76, 56),
)  # fmt: skip


@dataclass(frozen=True)
class PersonStyle:
    """The appearance of one person; the same style gives the same figure in every pose."""

    skin: Colour
    hair: Colour
    top: Colour
    inner: Colour
    bottom: Colour
    shoes: Colour
    bag: Colour
    build: float
    top_kind: str
    bottom_kind: str
    hair_kind: str
    hat_kind: str
    bag_kind: str


def random_person(rng: np.random.Generator) -> PersonStyle:
    """Choose a style at random with `rng`."""

    def colour(choices: tuple[Colour, ...]) -> Colour:
        base = np.array(choices[rng.integers(len(choices))]) + rng.integers(-22, 23, 3)
        red, green, blue = (int(channel) for channel in np.clip(base, 8, 248))
        return red, green, blue

    def kind(*names: str) -> str:
        return names[rng.integers(len(names))]

    return PersonStyle(
        skin=SKINS[rng.integers(len(SKINS))],
        hair=colour(HAIRS),
        top=colour(CLOTHES),
        inner=colour(CLOTHES),
        bottom=colour(TROUSERS if rng.random() < 0.7 else CLOTHES),
        shoes=colour(TROUSERS if rng.random() < 0.7 else CLOTHES),
        bag=colour(CLOTHES),
        build=float(rng.uniform(0.85, 1.25)),
        top_kind=kind("tee", "jumper", "jumper", "open", "coat", "stripes"),
        bottom_kind=kind("trousers", "trousers", "trousers", "shorts", "skirt"),
        hair_kind=kind("short", "short", "long", "bun", "bald"),
        hat_kind=kind("none", "none", "none", "cap", "beanie", "hood"),
        bag_kind=kind("none", "none", "backpack", "handbag"),
    )
