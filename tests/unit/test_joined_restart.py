"""Restarts of the controller during a visit, with the same or other alarm classes: each arrival is announced once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from support.sentry import EMPTY, PERSON, Actor
from tridetr.config import Config
from tridetr.controller.camera_control import CameraSentry
from tridetr.controller.store import Store
from tridetr.served_model import ServedModelReader
from tridetr.shm.detections import DETECTION_DTYPE
from tridetr.shm.names import unlink_instance

CAR = np.array([(300, 200, 600, 420, 0.9, 3, 0)], DETECTION_DTYPE)
BOTH = np.concatenate([CAR, PERSON])
Run = Callable[..., list[str]]
TWO = ("person", "car")


@pytest.fixture
def run(tmp_path: Path, instance: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Yield a function that shows pictures to a new controller, kills it, and returns all events so far.

    Its keyword arguments are sections of the configuration, by default with the classes person and car.
    """
    (film := tmp_path / "film.mp4").touch()
    usual = {
        "instance": instance,
        "cameras": {"cam": {"source": str(film), "realtime": False}},
        "alarm": {"classes": TWO},
        "sentry": {"confirm_frames": 3, "confirm_s": 0.2, "clear_s": 1},
        "run_dir": str(tmp_path),
        "state_dir": str(tmp_path / "state"),
    }
    actor = Actor(instance, "cam")

    @contextmanager
    def killed(sections: dict[str, object]) -> Iterator[CameraSentry]:
        config = Config.model_validate(usual | sections)
        store = Store(config.state_dir, outbox_limit=100)
        models = ServedModelReader(config.run_dir)
        sentry = CameraSentry(config, "cam", store, models, "node1", lambda _: None)
        events.clear()
        try:
            yield sentry
        finally:
            events.extend(row.kind for row in store.outbox.values())
            with monkeypatch.context() as patch:
                patch.setattr(sentry, "_save", lambda _rows: None)
                sentry.close()
            store.close()

    events: list[str] = []

    def show(*pictures: tuple[np.ndarray, int], **sections: object) -> list[str]:
        with killed(sections) as sentry:
            for detections, frames in pictures:
                for _ in range(frames):
                    actor.show(detections)
                    sentry.on_wake()
        return events

    yield show
    actor.close()
    unlink_instance(instance, ["cam"])


ARRIVED, JOINED = "car_arrived", "person_joined"


def test_a_person_who_had_left_joins_again_after_a_restart(run: Run) -> None:
    """Every class that the visit had ever seen counted as in view: a burglar was taken for the owner of hours ago."""
    assert run((EMPTY, 3), (CAR, 10), (BOTH, 10), (CAR, 800)) == [ARRIVED, JOINED]
    assert run((BOTH, 10)) == [ARRIVED, JOINED, JOINED]
    assert run((BOTH, 10)) == [ARRIVED, JOINED, JOINED]


@pytest.mark.parametrize("frames", range(1, 6))
def test_a_person_who_is_being_confirmed_at_the_restart_joins_once(run: Run, frames: int) -> None:
    run((EMPTY, 3), (CAR, 10), (BOTH, frames))
    assert run((BOTH, 10)) == [ARRIVED, JOINED]


@pytest.mark.parametrize("frames", range(1, 12))
def test_the_class_of_the_visit_does_not_join_it_after_a_restart(run: Run, frames: int) -> None:
    run((EMPTY, 3), (CAR, frames))
    assert run((CAR, 30)) == [ARRIVED]


PERSON_ONLY, CAR_ONLY = {"classes": ["person"]}, {"classes": ["car"]}
LOST = "car_lost"


@pytest.mark.parametrize("classes", [["person"], ["person", "dog"]])
def test_a_person_at_the_car_of_a_class_that_was_removed_raises_an_alarm(
    run: Run, classes: list[str]
) -> None:
    """The car's visit was resumed, and the person kept it open, without any event."""
    alarm = {"classes": classes}
    assert run((EMPTY, 3), (CAR, 10)) == [ARRIVED]
    assert run((CAR, 20), alarm=alarm) == [ARRIVED, LOST]
    assert run((CAR, 20), alarm=alarm) == [ARRIVED, LOST], "once"
    assert run((BOTH, 10), alarm=alarm) == [ARRIVED, LOST, "person_arrived"]
    assert run((CAR, 20), alarm=alarm)[3:] == ["person_left"]


def test_a_class_that_is_no_longer_published_ends_its_visit(run: Run) -> None:
    detect = {"classes": ["person"]}
    assert run((EMPTY, 3), (CAR, 10)) == [ARRIVED]
    assert run((PERSON, 10), detect=detect) == [ARRIVED, LOST, "person_arrived"]
    assert run((EMPTY, 20), detect=detect)[3:] == ["person_left"]


def test_a_class_that_joined_a_visit_and_is_no_longer_published_has_not_left(run: Run) -> None:
    assert run((EMPTY, 3), (PERSON, 10), (BOTH, 10)) == ["person_arrived", "car_joined"]
    assert run((PERSON, 10), (EMPTY, 20), detect={"classes": ["person"]})[2:] == []


def test_a_person_in_view_raises_an_alarm_if_the_class_of_the_visit_is_removed(run: Run) -> None:
    assert run((EMPTY, 3), (CAR, 10), (BOTH, 10)) == [ARRIVED, JOINED]
    assert run((BOTH, 10), alarm=PERSON_ONLY) == [ARRIVED, JOINED, LOST, "person_arrived"]


def test_the_visit_of_a_person_who_has_left_the_car_of_a_removed_class(run: Run) -> None:
    """The next person was taken for the one who had left hours before."""
    events = ["person_arrived", "car_joined"]
    assert run((EMPTY, 3), (PERSON, 10), (BOTH, 10), (CAR, 800)) == events
    events += ["person_lost"]
    assert run((CAR, 20), alarm=PERSON_ONLY) == events
    assert run((BOTH, 10), alarm=PERSON_ONLY) == [*events, "person_arrived"]


def test_a_person_in_view_stays_in_the_visit_if_a_class_that_joined_it_is_removed(run: Run) -> None:
    """The end was `person_lost` after `hold_s`: the view without the removed class never counted as empty."""
    assert run((EMPTY, 3), (PERSON, 10), (BOTH, 10)) == ["person_arrived", "car_joined"]
    assert run((BOTH, 10), (CAR, 20), alarm=PERSON_ONLY)[2:] == ["person_left"]
    assert run((BOTH, 10), alarm=PERSON_ONLY)[3:] == ["person_arrived"]


def test_the_class_of_a_visit_does_not_join_it_because_another_class_is_added(run: Run) -> None:
    """With one class, the record of a visit did not have what was in view."""
    assert run((EMPTY, 3), (CAR, 10), alarm=CAR_ONLY) == [ARRIVED]
    assert run((CAR, 20)) == [ARRIVED]
    assert run((BOTH, 10)) == [ARRIVED, JOINED]


def test_a_class_that_is_exchanged_ends_its_visit(run: Run) -> None:
    assert run((EMPTY, 3), (BOTH, 10), alarm=PERSON_ONLY) == ["person_arrived"]
    assert run((BOTH, 10), alarm=CAR_ONLY) == ["person_arrived", "person_lost", ARRIVED]


def test_a_visit_goes_on_with_another_zone_or_score(run: Run) -> None:
    """What is no longer in the zone has left; what is, stays."""
    zone = [[0.3, 0.0], [1.0, 0.0], [1.0, 1.0], [0.3, 1.0]]  # with the car, without the person
    assert run((EMPTY, 3), (CAR, 10), (BOTH, 10)) == [ARRIVED, JOINED]
    assert run((BOTH, 30), alarm={"classes": TWO, "zone": zone}) == [ARRIVED, JOINED]
    assert run((BOTH, 20), alarm={"classes": TWO, "min_score": 0.95})[2:] == ["car_left"]
