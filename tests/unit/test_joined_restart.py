"""A restart of the controller while a parked car keeps a visit open: each person who arrives is announced once."""

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


@pytest.fixture
def run(tmp_path: Path, instance: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Yield a function that shows pictures to a new controller, kills it, and returns all events so far."""
    (film := tmp_path / "film.mp4").touch()
    config = Config.model_validate(
        {
            "instance": instance,
            "cameras": {"cam": {"source": str(film), "realtime": False}},
            "alarm": {"classes": ["person", "car"]},
            "sentry": {"confirm_frames": 3, "confirm_s": 0.2, "clear_s": 1},
            "run_dir": str(tmp_path),
            "state_dir": str(tmp_path / "state"),
        }
    )
    actor = Actor(instance, "cam")

    @contextmanager
    def killed() -> Iterator[CameraSentry]:
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

    def show(*pictures: tuple[np.ndarray, int]) -> list[str]:
        with killed() as sentry:
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
