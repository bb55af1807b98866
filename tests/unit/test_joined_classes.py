"""Classes that arrive while an object of another class keeps the visit open."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tridetr.config import SentrySection
from tridetr.controller.joined_classes import JoinedClasses
from tridetr.controller.payloads import Box

KEYS = SentrySection(confirm_frames=3, confirm_s=0.2, clear_s=1, hold_s=60)
CAR = Box("car", 0.9, (100.0, 100.0, 300.0, 200.0))
PERSON = Box("person", 0.8, (400.0, 100.0, 450.0, 250.0))
TRUCK = Box("truck", 0.7, (102.0, 98.0, 305.0, 200.0))


class Scene:
    def __init__(self, there: Sequence[str] = ()) -> None:
        self.now_ns = 10**12
        self.joined = JoinedClasses(KEYS, ("car", "truck", "person"), there)

    def show(self, *boxes: Box, seconds: float = 2.0) -> list[str]:
        """Show boxes at 10 fps; return what arrived."""
        arrived = []
        for _ in range(round(seconds * 10)):
            self.now_ns += 100_000_000
            arrived += self.joined.look(boxes, self.now_ns)
        return arrived


def test_each_person_at_a_parked_car_arrives() -> None:
    scene = Scene()
    assert scene.show(CAR, seconds=600) == ["car"]
    assert scene.show(CAR, PERSON) == ["person"]
    assert scene.show(CAR, seconds=30) + scene.show(CAR, PERSON) == [], "gone for less than hold_s"
    assert scene.show(CAR, seconds=70) + scene.show(CAR, PERSON) == ["person"]


def test_the_class_that_opened_the_visit_does_not_join_it() -> None:
    """A vehicle whose class flickers at first: the visit opens before the car's own count is complete."""
    scene = Scene()
    assert scene.show(TRUCK, seconds=0.1) + scene.show(CAR, seconds=0.1) == []
    scene.joined.announce("truck", scene.now_ns + 100_000_000)
    assert scene.show(TRUCK, seconds=0.1) == []
    assert scene.show(CAR, seconds=10) + scene.show(TRUCK, seconds=10) == []
    assert scene.show(TRUCK, PERSON) == ["person"]


def test_false_detections_do_not_arrive() -> None:
    scene = Scene()
    scene.show(CAR)
    for _ in range(20):
        assert scene.show(CAR, PERSON, seconds=0.2) + scene.show(CAR, seconds=0.5) == []


def test_car_detected_as_a_truck_has_not_left() -> None:
    scene = Scene()
    assert scene.show(CAR) == ["car"]
    assert scene.show(TRUCK, seconds=100) + scene.show(CAR, seconds=100) == []
    assert scene.show(CAR, TRUCK, seconds=10) == []
    assert scene.show(TRUCK, PERSON) == ["person"]


@pytest.mark.parametrize("there", [("car", "person"), ("car",)])
def test_only_new_classes_arrive_after_a_restart(there: tuple[str, ...]) -> None:
    scene = Scene(there)
    assert scene.show(CAR, PERSON) == [name for name in ("person",) if name not in there]


def test_classes_arrive_again_in_the_next_visit() -> None:
    scene = Scene()
    scene.show(CAR, PERSON)
    scene.joined.forget()
    assert scene.show(PERSON, CAR) == ["car", "person"]


def test_person_who_arrives_soon_after_a_restart() -> None:
    """The visit's classes do not say when each was seen: the person of the visit may have left hours ago."""
    scene = Scene(("car", "person"))
    assert scene.show(CAR, seconds=10) + scene.show(CAR, PERSON) == ["person"]
