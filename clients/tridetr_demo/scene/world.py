"""Plan a timetable of people, dogs and cars that cross the picture, with quiet gaps in between."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CAST = 5
GAP_S = (5.0, 8.0)
STRIDE_LENGTH = 0.8  # length of a full walk cycle, in body heights


@dataclass(frozen=True)
class TrueBox:
    """The true box of an object in the picture.

    Attributes:
        xyxy: Extent in pixels, clipped to the frame.
        class_id: COCO-91 id: person 1, car 3, dog 18.
        visible: Share of it that is within the frame and not hidden by something nearer, 0..1.
    """

    xyxy: tuple[float, float, float, float]
    class_id: int
    visible: float


@dataclass(frozen=True)
class Visit:
    """One crossing of the picture.

    Attributes:
        role: person, dog or car.
        member: Index in the cast.
        start_s: Time at which it starts, outside of the picture [s].
        lane: 0 far .. 1 near.
        rightwards: Whether it moves to the right.
        speed: Widths of the picture per second.
        pause_s: Time for which it stands still in the middle [s].
    """

    role: str
    member: int
    start_s: float
    lane: float
    rightwards: bool
    speed: float
    pause_s: float = 0.0

    @property
    def end_s(self) -> float:
        """Time at which it has left [s]: it starts and ends a quarter of the picture's width outside."""
        return self.start_s + 1.5 / self.speed + self.pause_s

    def place(self, time_s: float) -> tuple[float, bool] | None:
        """Return its centre in widths of the picture (-0.25 .. 1.25) and whether it walks; None if it is absent."""
        if not self.start_s <= time_s < self.end_s:
            return None
        gone = (time_s - self.start_s) * self.speed
        halt = 0.75 * 1.0
        pause = self.pause_s * self.speed
        walking = not (self.pause_s and halt <= gone < halt + pause)
        gone = min(gone, halt) if gone < halt + pause and self.pause_s else gone - pause
        across = gone - 0.25
        return (across if self.rightwards else 1.0 - across), walking


@dataclass(frozen=True)
class Timetable:
    """All visits of one round, which repeats indefinitely."""

    visits: tuple[Visit, ...]
    period_s: float

    def present(self, time_s: float) -> list[tuple[Visit, float, bool]]:
        """Return the visits at a moment, each with its position across the picture and whether it walks."""
        within = math.fmod(time_s, self.period_s)
        if within < 0:
            within += self.period_s
        found = [(visit, visit.place(within)) for visit in self.visits]
        return [(visit, place[0], place[1]) for visit, place in found if place is not None]


def make_timetable(seed: int, scene: str) -> Timetable:
    """Return a timetable of people who cross one after another, sometimes together, with gaps of several seconds.

    Args:
        seed: The same seed gives the same timetable.
        scene: `street` (with cars) or `hall`.
    """
    rng = np.random.default_rng([seed, 77])
    visits: list[Visit] = []
    clock = 0.5
    acts = ["one", "pair", "dog", "pause", "one", "group", "pause"]
    order = ["one", *(acts[i] for i in rng.permutation(len(acts)))]

    def person(start_s: float, lane: float, rightwards: bool, pause_s: float = 0.0) -> Visit:
        member = (len([v for v in visits if v.role == "person"])) % CAST
        return Visit(
            "person", member, start_s, lane, rightwards, float(rng.uniform(0.15, 0.2)), pause_s
        )

    for act in order:
        rightwards = bool(rng.random() < 0.5)
        lanes = [float(lane) for lane in rng.permutation([0.1, 0.5, 0.9])]
        begun = len(visits)
        visits.append(person(clock, lanes[0], rightwards, 2.5 if act == "pause" else 0.0))
        if act in ("pair", "group"):
            visits.append(person(clock + 0.8, lanes[1], not rightwards))
        if act == "group":
            visits.append(person(clock + 2.2, lanes[2], rightwards))
        if act == "dog":
            owner = visits[-1]
            visits.append(
                Visit("dog", 0, clock + 0.12 / owner.speed, owner.lane, rightwards, owner.speed)
            )
        clock = max(visit.end_s for visit in visits[begun:])
        gap = float(rng.uniform(*GAP_S))
        if scene == "street" and rng.random() < 0.6:
            visits.append(
                Visit("car", int(rng.integers(2)), clock, 1.0, bool(rng.random() < 0.5), 0.35)
            )
            gap = max(gap, visits[-1].end_s - clock)
        clock += gap
    return Timetable(tuple(visits), clock)
