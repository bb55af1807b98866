"""Choose the content of a random scene: people, dogs, cars, bicycles and furniture, and their positions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tridetr_demo.scene.animals import draw_dog
from tridetr_demo.scene.appearance import random_person
from tridetr_demo.scene.backdrop import Background
from tridetr_demo.scene.furniture import draw_furniture
from tridetr_demo.scene.people import draw_person
from tridetr_demo.scene.vehicles import draw_bicycle, draw_car

PERSON, BICYCLE, CAR, DOG = 1, 2, 3, 18
CLASS_NAMES: dict[int, str] = {PERSON: "person", BICYCLE: "bicycle", CAR: "car", DOG: "dog"}
YAWS = (math.pi / 2, -math.pi / 2, math.pi / 2, -math.pi / 2, 0.0, math.pi, 0.7, -0.7, 2.4, -2.4)
STREET_FURNITURE = ("bench", "planter", "bin", "bollard", "post", "tree", "sign", "case")
HALL_FURNITURE = ("bench", "planter", "column", "desk", "bin", "case")
FURNITURE_SCALE = {"post": 2.2, "tree": 2.3, "column": 2.6, "sign": 1.4, "planter": 0.7, "bench": 0.45, "desk": 0.6,
                   "bin": 0.5, "bollard": 0.5, "case": 0.35}  # fmt: skip


@dataclass(frozen=True)
class Placed:
    """A sprite in a scene.

    Attributes:
        rgba: uint8 [h, w, 4].
        left: Column of its left edge in the picture.
        top: Row of its upper edge.
        class_id: COCO-91 id, 0 for furniture.
        foot: Row at which it touches the ground; the larger, the nearer.
    """

    rgba: NDArray[np.uint8]
    left: int
    top: int
    class_id: int
    foot: float


class _Stage:
    """Fills one scene; all choices are made with `rng`."""

    def __init__(self, rng: np.random.Generator, background: Background) -> None:
        self.rng, self.background = rng, background
        self.height: int = background.rgb.shape[0]
        self.width: int = background.rgb.shape[1]
        self.tallness = float(rng.uniform(0.75, 1.35))
        self.placed: list[Placed] = []

    def body_height(self, foot: float) -> float:
        """Return the height of a person whose feet are at a row: by perspective, 10 to 80 % of the picture."""
        tall = max(0.1 * self.height, (foot - self.background.horizon_y) * self.tallness)
        return min(tall, 0.8 * self.height)

    def somewhere(self, margin: float = 0.02, below: float = 1.02) -> float:
        """Return a random row on the ground."""
        return float(
            self.rng.uniform(self.background.floor_y + margin * self.height, below * self.height)
        )

    def place(
        self, rgba: NDArray[np.uint8], class_id: int, foot: float, x: float | None = None
    ) -> None:
        centre = self.rng.uniform(-0.02, 1.02) * self.width if x is None else x
        left, top = round(centre - rgba.shape[1] / 2), round(foot - rgba.shape[0])
        self.placed.append(Placed(rgba, left, top, class_id, foot))

    def add_person(self, any_size: bool) -> None:
        """Return a person, walking or standing; with `any_size`, the height ignores the perspective."""
        rng, height = self.rng, self.height
        if any_size:
            tall = height * math.exp(rng.uniform(math.log(0.1), math.log(0.75)))
            foot = max(self.background.floor_y * 0.9, rng.uniform(0.45, 1.0) * height, tall * 0.8)
        else:
            foot = self.somewhere(below=1.12)
            tall = self.body_height(foot)
        stride = float(rng.choice([0.04, 0.7, 1.0, 1.0, 1.3]))
        yaw = YAWS[rng.integers(len(YAWS))] + rng.normal(0, 0.15)
        phase = rng.uniform(0, 2 * math.pi)
        style, light = random_person(rng), self.background.light
        sprite = draw_person(
            style, max(16, round(tall)), phase=phase, yaw=yaw, stride=stride, light=light
        )
        centre = rng.uniform(-0.02, 1.02) * self.width
        self.place(sprite, PERSON, foot, centre)
        if rng.random() < 0.12 and tall > 0.2 * height:
            next_to = centre + rng.choice([-1, 1]) * tall * 0.5
            self.add_dog(foot + 0.01 * height, tall * rng.uniform(0.3, 0.45), next_to)

    def add_dog(self, foot: float, tall: float, x: float | None = None) -> None:
        rng, light = self.rng, self.background.light
        phase, mirrored = rng.uniform(0, 2 * math.pi), rng.random() < 0.5
        dog = draw_dog(rng, max(14, round(tall)), phase=phase, mirrored=mirrored, light=light)
        self.place(dog, DOG, foot, x)

    def add_car(self, road: tuple[int, int]) -> None:
        rng, light = self.rng, self.background.light
        foot = rng.uniform(road[0] + 0.06 * self.height, self.height * 1.05)
        tall = max(0.12 * self.height, (foot - self.background.horizon_y) * rng.uniform(0.5, 0.8))
        end_on, mirrored = rng.random() < 0.15, rng.random() < 0.5
        tall = min(tall, 0.45 * self.height)
        self.place(
            draw_car(rng, round(tall), end_on=end_on, mirrored=mirrored, light=light), CAR, foot
        )

    def add_bicycle(self) -> None:
        foot = self.somewhere(0.05)
        tall = max(24, round(self.body_height(foot) * 0.62))
        mirrored = self.rng.random() < 0.5
        bicycle = draw_bicycle(self.rng, tall, mirrored=mirrored, light=self.background.light)
        self.place(bicycle, BICYCLE, foot)

    def add_furniture(self) -> None:
        kinds = STREET_FURNITURE if self.background.road else HALL_FURNITURE
        kind, foot = kinds[self.rng.integers(len(kinds))], self.somewhere()
        tall = max(12, round(self.body_height(foot) * FURNITURE_SCALE[kind]))
        self.place(draw_furniture(self.rng, kind, tall), 0, foot)


def stage_actors(rng: np.random.Generator, background: Background) -> list[Placed]:
    """Fill a scene at random, with up to five people.

    Args:
        rng: Random generator.
        background: Background of the scene.

    Returns:
        The placed items, the farthest first; they may overlap and reach beyond the picture.
    """
    stage = _Stage(rng, background)
    any_size = rng.random() < 0.3
    for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 3, 4, 5])):
        stage.add_person(any_size)
    if background.road is not None:
        for _ in range(rng.choice([0, 0, 1, 1, 2])):
            stage.add_car(background.road)
    if rng.random() < 0.25:
        stage.add_bicycle()
    if rng.random() < 0.18:
        foot = stage.somewhere(0.05)
        stage.add_dog(foot, max(18.0, stage.body_height(foot) * rng.uniform(0.35, 0.5)))
    for _ in range(rng.integers(0, 4)):
        stage.add_furniture()
    return sorted(stage.placed, key=lambda item: item.foot)
