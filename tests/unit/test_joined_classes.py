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


def test_what_was_counted_before_an_outage_is_forgotten() -> None:
    """The person arrived, silently, before the visit that the car then opened, and never joined it."""
    scene = Scene()
    assert scene.show(PERSON, seconds=0.2) == []
    scene.now_ns += 75 * 10**9
    assert scene.show(CAR, PERSON, seconds=0.2) == []
    scene.joined.announce("car", scene.now_ns + 100_000_000)
    assert scene.show(CAR, PERSON) == ["person"]


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


MOTORCYCLE = Box("car", 0.7, (300.0, 150.0, 380.0, 300.0))
RIDER = Box("person", 0.9, (300.0, 90.0, 380.0, 260.0))  # IoU 0.52
BURGLAR = Box("person", 0.95, (60.0, 90.0, 140.0, 280.0))


def away(box: Box, pixels: float) -> Box:
    x1, y1, x2, y2 = box.xyxy
    return Box(box.name, box.score, (x1 + pixels, y1, x2 + pixels, y2))


@pytest.mark.parametrize("together", [True, False])
def test_a_parked_vehicle_does_not_keep_the_name_of_its_rider(together: bool) -> None:
    """It counted as a person for as long as it stayed, so that no later person arrived."""
    scene = Scene()
    assert scene.show(RIDER) == ["person"]
    if together:
        assert scene.show(RIDER, MOTORCYCLE) == ["car"]
        assert scene.show(away(RIDER, 200), MOTORCYCLE, seconds=5) == []
        assert scene.show(MOTORCYCLE, seconds=70) == []
    else:
        assert scene.show(MOTORCYCLE, seconds=50) == []
        assert scene.show(MOTORCYCLE, seconds=100) == ["car"]
    assert scene.show(MOTORCYCLE, BURGLAR) == ["person"]


def test_a_vehicle_that_comes_where_a_person_stands_does_not_take_the_name_along() -> None:
    scene = Scene()
    slice_of_car = Box("car", 0.8, PERSON.xyxy)
    assert scene.show(PERSON) == ["person"]
    assert scene.show(slice_of_car, seconds=0.5) == []
    assert scene.show(away(CAR, -50), seconds=1) == ["car"]
    assert scene.show(CAR, seconds=90) == []
    assert scene.show(CAR, BURGLAR) == ["person"]


@pytest.mark.parametrize("first", ["car", "truck"])
def test_a_person_taken_for_something_else_at_first_arrives_on_leaving_the_place(
    first: str,
) -> None:
    scene = Scene()
    assert scene.show(Box(first, 0.6, BURGLAR.xyxy), seconds=1) == [first]
    found = scene.show(BURGLAR, seconds=1)
    for step in range(20):
        found += scene.show(away(BURGLAR, 10 * step), seconds=0.3)
    assert found == ["person"]


def test_a_moving_object_with_two_names_is_one() -> None:
    scene = Scene()
    assert scene.show(CAR) == ["car"]
    for step in range(30):
        both = away(CAR, 10 * step), away(TRUCK, 10 * step)
        assert scene.show(*both[step % 3 == 0 :], seconds=0.1) == []


def test_one_of_two_cars_detected_as_a_truck_has_not_left() -> None:
    scene = Scene()
    assert scene.show(CAR, away(CAR, 300)) == ["car"]
    for _ in range(3):
        assert scene.show(TRUCK, away(CAR, 300), seconds=100) == []
        assert scene.show(CAR, away(TRUCK, 300), seconds=100) == []


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
