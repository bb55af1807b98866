"""Render the cast of the live camera: each member of the timetable once, in all poses, as I420 sprites."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tridetr_demo.scene.animals import draw_dog
from tridetr_demo.scene.appearance import random_person
from tridetr_demo.scene.backdrop import Background
from tridetr_demo.scene.people import draw_person
from tridetr_demo.scene.sprites import Sprite
from tridetr_demo.scene.vehicles import draw_car
from tridetr_demo.scene.world import CAST, STRIDE_LENGTH, Timetable, Visit

PHASES = 12


@dataclass(frozen=True)
class Actor:
    """One member of the cast in all poses, facing right.

    Attributes:
        walking: One sprite per phase of the walk cycle (a single one for cars).
        standing: Sprite that faces the viewer.
        cycle_px: Distance walked in one cycle [pixels].
    """

    walking: list[Sprite]
    standing: Sprite
    cycle_px: float


class Perspective:
    """Position of a background's lanes on the ground, and the height of people there."""

    def __init__(self, place: Background) -> None:
        self.place = place
        self.height: int = place.rgb.shape[0]

    def foot(self, lane: float, role: str) -> float:
        """Return the row of the feet, for lane 0 (far) to 1 (near); cars stay on the road."""
        road = self.place.road
        if role == "car" and road is not None:
            return road[0] + 0.6 * (self.height - road[0])
        near = 0.9 if road is None else road[0] / self.height + 0.12
        far = self.place.floor_y / self.height + 0.07
        return (far + (near - far) * lane) * self.height

    def body_height(self, foot: float) -> float:
        """Return the height of a person: 25 % (far) to 62 % (near) of the picture."""
        tall = (foot - self.place.horizon_y) * 1.15
        return min(max(tall, 0.25 * self.height), 0.62 * self.height)


class Troupe:
    """Render each member in the sizes that its lanes need.

    Args:
        rng: Random generator, for their appearance.
        timetable: The visits, with their members and lanes.
        view: The lanes of the background.
    """

    def __init__(self, rng: np.random.Generator, timetable: Timetable, view: Perspective) -> None:
        self._view = view
        self._styles = [random_person(rng) for _ in range(CAST)]
        self._yaws = [math.pi / 2 - 0.35 + 0.7 * rng.random() for _ in range(CAST)]
        self._seeds = [int(rng.integers(1 << 30)) for _ in range(4)]
        self._actors: dict[tuple[str, int, float], Actor] = {}
        for visit in timetable.visits:
            if self._key(visit) not in self._actors:
                self._actors[self._key(visit)] = self._render(visit)

    @staticmethod
    def _key(visit: Visit) -> tuple[str, int, float]:
        return visit.role, visit.member, visit.lane

    def actor(self, visit: Visit) -> Actor:
        return self._actors[self._key(visit)]

    def _render(self, visit: Visit) -> Actor:
        foot = self._view.foot(visit.lane, visit.role)
        body = self._view.body_height(foot)
        if visit.role == "person":
            pictures, still = self._person(visit.member, round(body))
        elif visit.role == "dog":
            pictures = self._dog(round(body * 0.36))
            still = pictures[0]
        else:
            tall = round((foot - self._view.place.horizon_y) * 0.5)
            paint = np.random.default_rng(self._seeds[2 + visit.member])
            still = draw_car(paint, tall, mirrored=True, light=self._view.place.light)
            pictures = [still]
        cycle = body * STRIDE_LENGTH * (0.5 if visit.role == "dog" else 1.0)
        sprites = [Sprite.from_rgba(picture, shadow=0.4) for picture in pictures]
        return Actor(sprites, Sprite.from_rgba(still, shadow=0.4), cycle)

    def _person(self, member: int, tall: int) -> tuple[list[NDArray[np.uint8]], NDArray[np.uint8]]:
        style, yaw, light = self._styles[member], self._yaws[member], self._view.place.light
        walking = [
            draw_person(
                style, tall, phase=2 * math.pi * i / PHASES, yaw=yaw, stride=0.95, light=light
            )
            for i in range(PHASES)
        ]
        return walking, draw_person(style, tall, phase=0.3, yaw=0.25, stride=0.06, light=light)

    def _dog(self, tall: int) -> list[NDArray[np.uint8]]:
        light = self._view.place.light
        return [
            draw_dog(
                np.random.default_rng(self._seeds[0]),
                tall,
                phase=2 * math.pi * i / PHASES,
                light=light,
            )
            for i in range(PHASES)
        ]
