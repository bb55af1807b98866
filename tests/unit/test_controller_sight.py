"""The controller with results that arrive twice or late, and with a model that is replaced at run time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from support.sentry import EMPTY, FRAME_NS, PERSON, Actor
from support.waiting import slack, wait_for
from tridetr.config import Config
from tridetr.contract import COCO_91
from tridetr.controller import camera_control, interruptions
from tridetr.controller.camera_control import CameraSentry
from tridetr.controller.problems import TOO_SLOW, CameraProblem
from tridetr.controller.state_machine import State
from tridetr.controller.store import Store
from tridetr.model_card import ModelInfo
from tridetr.served_model import ServedModelReader, write_served_model
from tridetr.shm.boards import BlindReason, CameraState
from tridetr.shm.detections import DETECTION_DTYPE

Make = Callable[..., tuple[CameraSentry, Actor]]


def state_of(sentry: CameraSentry) -> State:
    return sentry.record.memory.state


def serve(run_dir: Path, classes: dict[str, int]) -> None:
    write_served_model(run_dir, ModelInfo("rfdetr_ort", "1", "onnxruntime", "cpu", "fp32", classes))


@pytest.fixture
def make(tmp_path: Path, instance: str) -> Iterator[Make]:
    """Start a sentry; called again, it restarts it."""
    opened: list[CameraSentry | Actor | Store] = []

    def close() -> None:
        while opened:
            opened.pop(0).close()

    def build(*alarm: str, **sentry: float) -> tuple[CameraSentry, Actor]:
        config = Config.model_validate(
            {
                "instance": instance,
                "cameras": {"cam": {"source": "synthetic"}},
                "sentry": sentry,
                "alarm": {"classes": alarm or ["person"]},
                "run_dir": str(tmp_path),
                "state_dir": str(tmp_path / "state"),
            }
        )
        close()
        actor = Actor(instance, "cam")
        store = Store(config.state_dir, outbox_limit=100)
        models = ServedModelReader(tmp_path)
        watcher = CameraSentry(config, "cam", store, models, "node1", lambda _: None)
        opened.extend((watcher, actor, store))
        return watcher, actor

    yield build
    close()


def test_frame_inferred_again_by_a_restarted_detector_counts_once(make: Make) -> None:
    sentry, actor = make(confirm_frames=3, confirm_s=0)
    actor.show(EMPTY)
    for _ in range(5):
        actor.show(PERSON)
        actor.frame -= 1
        actor.time_ns -= FRAME_NS
    sentry.on_wake()
    assert state_of(sentry) is State.VALIDATION
    assert sentry.record.memory.person_frames == 1
    for _ in range(3):  # the first one repeats the previous frame
        actor.show(PERSON)
    sentry.on_wake()
    assert state_of(sentry) is State.TRACKING


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_during_a_visit_does_not_change_its_duration(
    make: Make, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """For example, the clock of a machine without a battery, an hour after its start."""
    sentry, actor = make(confirm_frames=1, confirm_s=0, clear_s=0.1)
    actor.show(PERSON, age_s=0.4)
    sentry.on_wake()
    now_ns, step_ns = time.time_ns, hours * 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + step_ns)
    for age_s in (0.3, 0.2, 0.1):
        actor.show(EMPTY, age_s=age_s)
    sentry.on_wake()
    left = list(sentry._store.outbox.values())[-1]
    assert left.kind == "person_left"
    assert 0 < json.loads(left.details)["duration_s"] < slack(5)


def test_classes_of_a_replaced_model_apply_from_its_first_result(
    make: Make, tmp_path: Path
) -> None:
    """Class IDs of the new model must never be interpreted with the old model's names."""
    serve(tmp_path, {"person": 1})
    sentry, actor = make(confirm_frames=1, confirm_s=0)
    actor.show(EMPTY)
    sentry.tick()
    serve(tmp_path, {"person": 0, "bicycle": 1})
    actor.show(PERSON)  # number 1
    sentry.on_wake()
    assert state_of(sentry) is State.STANDBY
    person = np.array(PERSON, DETECTION_DTYPE)
    person["class_id"] = 0
    actor.show(person)
    sentry.on_wake()
    assert state_of(sentry) is State.TRACKING


def test_results_that_come_too_rarely_are_a_problem(make: Make) -> None:
    """Three cameras and a slow model: a person was in view for 6 s without an alarm, and everything looked healthy."""
    sentry, actor = make()
    for _ in range(20):
        actor.frame += 40
        actor.show(EMPTY, seconds=4.0)
        sentry.on_wake()
    assert sentry.problems()[CameraProblem.DETECTOR] == TOO_SLOW


def test_any_class_name_fits_on_the_board(make: Make, tmp_path: Path) -> None:
    name = "sehr großer Lastkraftwagen " * 3 + "ß" * 20
    serve(tmp_path, {name: 1})
    sentry, actor = make(name, confirm_frames=1, confirm_s=0)
    actor.show(PERSON)  # number 1
    sentry.tick()
    assert sentry.record.visit_classes == (name,)
    assert name.startswith(actor.board().visit_class)


def test_an_alarm_class_that_the_detector_does_not_publish_is_a_problem(
    tmp_path: Path, instance: str
) -> None:
    """Otherwise everything would look healthy, but no person would ever raise an alarm."""
    config = Config.model_validate(
        {
            "instance": instance,
            "cameras": {"cam": {"source": "synthetic", "detect": {"classes": ["car"]}}},
            "run_dir": str(tmp_path),
            "state_dir": str(tmp_path / "state"),
        }
    )
    serve(tmp_path, {"person": 1, "car": 3})
    with closing(Store(config.state_dir, outbox_limit=100)) as store:
        models = ServedModelReader(tmp_path)
        sentry = CameraSentry(config, "cam", store, models, "node1", lambda _: None)
        with closing(sentry):
            assert sentry.problems()[CameraProblem.CLASSES] == "not in detect.classes: person"
            assert sentry.unseen_classes == {"person"}


def test_a_model_without_the_class_of_a_visit_gives_no_all_clear(
    make: Make, tmp_path: Path
) -> None:
    """The person, whom the updated model calls `human`, had "left"."""
    serve(tmp_path, {"person": 1, "car": 3})
    sentry, actor = make(clear_s=0.1, confirm_frames=1, confirm_s=0, unknown_s=0.4, hold_s=0.8)
    actor.show(PERSON, age_s=0.01)
    sentry.on_wake()
    assert state_of(sentry) is State.TRACKING
    serve(tmp_path, {"human": 1, "car": 3})
    for age_s in (0.35, 0.2, 0.01):
        actor.show(EMPTY, age_s=age_s)
        sentry.on_wake()
    assert state_of(sentry) is State.TRACKING

    def lost() -> bool:
        actor.show(PERSON, age_s=0.01)
        sentry.tick()
        return not sentry.record.memory.visit_open

    wait_for(lost)
    assert state_of(sentry) is State.UNKNOWN
    kinds = [row.kind for row in sentry._store.outbox.values()]
    assert kinds == ["person_arrived", "person_lost"]
    sentry._started_at -= camera_control.START_S
    assert sentry.problems() == {
        CameraProblem.CAMERA: "",
        CameraProblem.DETECTOR: "",
        CameraProblem.CLASSES: "the model does not know: person",
    }
    serve(tmp_path, {"person": 1, "car": 3})
    actor.show(PERSON, age_s=0.01)
    sentry.on_wake()
    assert state_of(sentry) is State.TRACKING


def test_known_classes_are_watched_next_to_one_that_the_model_does_not_know(
    make: Make, tmp_path: Path
) -> None:
    changes: list[CameraSentry] = []
    serve(tmp_path, {"person": 1})
    sentry, actor = make("person", "forklift", clear_s=0.1, confirm_frames=1, confirm_s=0)
    sentry._on_change = changes.append
    assert sentry.unseen_classes == {"forklift"}
    for picture in (EMPTY, PERSON):
        actor.show(picture, age_s=0.01)
        sentry.on_wake()
    assert state_of(sentry) is State.TRACKING
    for age_s in (0.2, 0.01):
        actor.show(EMPTY, age_s=age_s)
        sentry.on_wake()
    assert state_of(sentry) is State.STANDBY
    assert list(sentry._store.outbox.values())[-1].kind == "person_left"
    changes.clear()
    serve(tmp_path, {"person": 1, "forklift": 2})

    def seen() -> bool:
        sentry.tick()
        return not sentry.unseen_classes

    wait_for(seen)
    assert changes == [sentry]  # its topic is no longer `unknown`


@pytest.mark.parametrize("state", [CameraState.OFFLINE, CameraState.FROZEN, CameraState.BLIND])
def test_last_picture_of_an_offline_camera_gives_no_all_clear(
    make: Make, state: CameraState
) -> None:
    """A restarted detector infers it again."""
    sentry, actor = make()
    actor.show(EMPTY, age_s=0.1)
    sentry.tick()
    assert state_of(sentry) is State.STANDBY
    actor.be(state)
    actor.show(EMPTY, age_s=3.0)
    sentry.tick()
    sentry.tick()
    if state is CameraState.OFFLINE:  # results that are at most a second late still count

        def unknown() -> bool:
            sentry.tick()
            return state_of(sentry) is State.UNKNOWN

        wait_for(unknown)
    assert state_of(sentry) is State.UNKNOWN
    actor.show(EMPTY, age_s=12.0)
    sentry.on_wake()
    assert state_of(sentry) is State.UNKNOWN
    actor.be(CameraState.LIVE)
    sentry.tick()
    actor.show(EMPTY, age_s=12.0)
    sentry.on_wake()
    assert state_of(sentry) is State.UNKNOWN
    actor.show(EMPTY, age_s=0.1)
    sentry.on_wake()
    assert state_of(sentry) is State.STANDBY


def test_results_after_downtime_count_by_their_age(make: Make) -> None:
    """The controller must not report Unknown first, and then Standby because of old pictures."""
    sentry, actor = make(unknown_s=1.0)
    actor.show(EMPTY, age_s=5.0)
    sentry.on_wake()
    assert state_of(sentry) is State.UNKNOWN
    actor.show(EMPTY, age_s=0.1)
    sentry.on_wake()
    assert state_of(sentry) is State.STANDBY
    facts = sentry.facts()
    assert facts.last_result_age_s is not None
    assert 0.1 <= facts.last_result_age_s < 1.0


def test_board_is_written_on_ticks_for_empty_pictures_and_immediately_otherwise(make: Make) -> None:
    sentry, actor = make()

    def in_standby() -> bool:
        sentry.tick()
        return state_of(sentry) is State.STANDBY

    def on_board() -> bool:
        sentry.tick()
        return actor.board().decided_frame_sequence == calm

    actor.be(CameraState.LIVE)
    actor.show(age_s=0.01)
    wait_for(in_standby)
    calm = actor.show(age_s=0.01)
    wait_for(on_board)
    alarming = actor.show(PERSON, age_s=0.01)
    wait_for(lambda: sentry.on_wake() or state_of(sentry) is State.VALIDATION)
    assert actor.board().decided_frame_sequence == alarming


def expect_all_clear_only_once_live(sentry: CameraSentry, actor: Actor) -> None:
    actor.show(EMPTY, age_s=0.01)
    sentry.on_wake()
    assert state_of(sentry) is State.UNKNOWN
    actor.be(CameraState.LIVE)
    actor.show(EMPTY, age_s=0.01)
    sentry.on_wake()
    assert state_of(sentry) is State.STANDBY


@pytest.mark.parametrize("blind", [CameraState.BLIND, CameraState.FROZEN])
def test_first_picture_of_a_reconnected_camera_that_is_still_blind_gives_no_all_clear(
    make: Make, blind: CameraState
) -> None:
    """Its status, polled a little earlier, was still offline, which late results of a live camera may follow."""
    sentry, actor = make(unknown_s=5)
    actor.be(CameraState.OFFLINE)
    sentry.tick()
    actor.be(blind)
    expect_all_clear_only_once_live(sentry, actor)


@pytest.mark.parametrize("blind", [CameraState.BLIND, CameraState.FROZEN])
def test_last_picture_of_a_blind_camera_whose_connection_breaks_gives_no_all_clear(
    make: Make, blind: CameraState
) -> None:
    """Results that are at most a second late count, but not those of a camera that could not see."""
    sentry, actor = make(unknown_s=5)
    actor.be(blind)
    sentry.tick()
    actor.be(CameraState.OFFLINE)
    expect_all_clear_only_once_live(sentry, actor)


def test_a_camera_that_may_be_covered_ends_no_visit(make: Make) -> None:
    """The cover is proved after five seconds, later than `clear_s`: a person who covered the camera had "left"."""
    sentry, actor = make(clear_s=0.3, confirm_frames=1, confirm_s=0)
    actor.show(PERSON, age_s=0.01)
    sentry.on_wake()
    assert state_of(sentry) is State.TRACKING
    for age_s in (0.9, 0.7, 0.5):
        actor.show(EMPTY, age_s=age_s)
        actor.doubt()
        sentry.on_wake()
    assert state_of(sentry) is State.TRACKING
    for age_s in (0.4, 0.01):
        actor.show(EMPTY, age_s=age_s)
        sentry.on_wake()
    assert state_of(sentry) is State.STANDBY


def test_a_camera_that_may_be_covered_does_not_end_unknown_with_an_empty_picture(
    make: Make,
) -> None:
    """For example a capture process that is restarted in front of a covered camera: it is live for five seconds."""
    sentry, actor = make(confirm_frames=1, confirm_s=0)
    actor.show(EMPTY, age_s=0.1)
    actor.doubt()
    sentry.on_wake()
    assert state_of(sentry) is State.UNKNOWN
    sentry._started_at -= camera_control.START_S
    problems = sentry.problems()
    assert "may not show the scene" in problems[CameraProblem.CAMERA]
    assert not problems[CameraProblem.DETECTOR]
    actor.show(EMPTY, age_s=0.01)
    sentry.on_wake()
    assert state_of(sentry) is State.STANDBY
    assert not any(sentry.problems().values())


@pytest.mark.parametrize("then", [CameraState.LIVE, CameraState.OFFLINE, CameraState.STARTING])
def test_a_doubtful_picture_ends_no_visit_when_it_is_decided_on_later(
    make: Make, then: CameraState
) -> None:
    """A slow model's result of such a picture comes after the next key frame, or after the connection has ended."""
    sentry, actor = make(clear_s=0.3, unknown_s=30, confirm_frames=1, confirm_s=0)
    actor.show(PERSON, age_s=0.95)
    actor.show(EMPTY, age_s=0.9)
    sentry.on_wake()
    assert state_of(sentry) is State.TRACKING
    actor.show(EMPTY, age_s=0.5)
    actor.doubt()
    actor.be(then)
    sentry.on_wake()
    assert sentry.record.memory.visit_open, "a person can be there"


def test_doubtful_pictures_do_not_end_a_confirmation(make: Make) -> None:
    """A person was never reported by a camera that was covered again and again for a few seconds."""
    sentry, actor = make(unknown_s=30, confirm_frames=3, confirm_s=0)
    for age_s in (0.9, 0.8):
        actor.show(PERSON, age_s=age_s)
    for age_s in (0.7, 0.6, 0.5):
        actor.show(EMPTY, age_s=age_s)
    actor.doubt()
    sentry.on_wake()
    assert state_of(sentry) is State.VALIDATION
    actor.show(PERSON, age_s=0)
    sentry.on_wake()
    assert state_of(sentry) is State.TRACKING


@pytest.mark.parametrize("reason", [BlindReason.TURNED, BlindReason.BLURRED])
def test_a_person_in_another_view_raises_the_alarm_but_an_empty_picture_proves_nothing(
    make: Make, reason: BlindReason
) -> None:
    """No one was reported whom a turned camera showed, or one that was taken for turned when a light went on."""
    keys = {"confirm_frames": 2, "confirm_s": 0, "unknown_s": 1, "hold_s": 2.5, "clear_s": 0.1}
    sentry, actor = make(**keys)
    actor.show(EMPTY, age_s=0.01)
    sentry.on_wake()
    actor.be(CameraState.BLIND, reason)

    def show_until(state: State, picture: NDArray[np.void]) -> None:
        def reached() -> bool:
            actor.show(picture, age_s=0)
            sentry.tick()
            return state_of(sentry) is state

        wait_for(reached)

    show_until(State.UNKNOWN, EMPTY)
    show_until(State.TRACKING, PERSON)
    for _ in range(3):
        actor.show(PERSON, age_s=0.7)  # of a slow model
        sentry.on_wake()
        actor.show(EMPTY, age_s=0.6)
        sentry.on_wake()
        sentry.tick()
        assert state_of(sentry) is State.TRACKING, "while the person is in view"
    assert "blind" in sentry.problems()[CameraProblem.CAMERA]
    show_until(State.UNKNOWN, EMPTY)
    assert sentry.record.memory.visit_open, "no all-clear"

    def ended() -> bool:
        sentry.tick()
        return not sentry.record.memory.visit_open

    wait_for(ended)
    kinds = [row.kind for row in sentry._store.outbox.values()]
    assert kinds == ["person_arrived", "person_lost"]


@pytest.mark.parametrize("reason", [BlindReason.COVERED, BlindReason.DAZZLED])
def test_what_a_covered_camera_shows_is_no_person(make: Make, reason: BlindReason) -> None:
    sentry, actor = make(confirm_frames=1, confirm_s=0)
    actor.be(CameraState.BLIND, reason)
    sentry.tick()
    actor.show(PERSON, age_s=0)
    sentry.on_wake()
    assert state_of(sentry) is State.UNKNOWN


def test_unknown_class_of_a_model_with_the_assumed_classes(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """COCO's classes are assumed until a model is served; a model that has exactly these is a change too."""
    sentry, _ = make("persn")
    assert "can never alarm" not in caplog.text
    serve(tmp_path, dict(COCO_91))

    def unknown() -> bool:
        sentry.tick()
        return "persn" in sentry.problems()[CameraProblem.CLASSES]

    wait_for(unknown)
    assert "can never alarm" in caplog.text


def test_too_few_good_pictures_of_a_live_camera_are_a_problem(make: Make) -> None:
    sentry, actor = make()
    actor.show(EMPTY, age_s=0.1)
    actor.be(CameraState.LIVE, message="most pictures are damaged")
    sentry.tick()
    assert state_of(sentry) is State.STANDBY
    assert sentry.problems()[CameraProblem.CAMERA] == "most pictures are damaged"


@pytest.mark.parametrize(
    ("state", "kind", "why"),
    [
        (CameraState.FROZEN, CameraProblem.CAMERA, "frozen"),
        (CameraState.LIVE, CameraProblem.DETECTOR, "no results from the detector"),
    ],
)
def test_sight_that_is_lost_again_and_again_is_a_lasting_problem(
    make: Make, monkeypatch: pytest.MonkeyPatch, state: CameraState, kind: CameraProblem, why: str
) -> None:
    """Each interruption is too short for an alert or an automation that waits a minute."""
    monkeypatch.setattr(interruptions, "CALM_S", 0.3)
    sentry, actor = make(unknown_s=0.05)

    def lose() -> None:
        actor.be(state)

        def unknown() -> bool:
            sentry.tick()
            return state_of(sentry) is State.UNKNOWN

        wait_for(unknown)
        actor.be(CameraState.LIVE)
        actor.show(EMPTY, age_s=0)
        sentry.tick()
        assert state_of(sentry) is State.STANDBY

    found = []
    actor.show(EMPTY, age_s=0)
    sentry.tick()
    for _ in range(4):
        lose()
        found.append(sentry.problems()[kind])
    lasting = f"interrupted repeatedly, last by: {why}"
    assert found == ["", "", lasting, lasting]

    def calm() -> bool:
        actor.show(EMPTY, age_s=0)
        sentry.tick()
        return not sentry.problems()[kind]

    wait_for(calm)
    lose()
    assert not sentry.problems()[kind]


def show_all(sentry: CameraSentry, actor: Actor, *shown: NDArray[np.void]) -> None:
    for detections in shown:
        actor.show(detections)
        sentry.on_wake()


def test_board_shows_up_to_which_frame_visits_have_ended(make: Make) -> None:
    """The recorder needs it to tell the frames of two visits apart if it reads them late."""
    sentry, actor = make(confirm_frames=1, confirm_s=0, clear_s=0.15)
    show_all(sentry, actor, EMPTY, PERSON, EMPTY, EMPTY)
    assert (actor.board().visit_id != "", actor.board().ended_frame_sequence) == (True, 0)
    show_all(sentry, actor, EMPTY)
    assert (actor.board().visit_id, actor.board().ended_frame_sequence) == ("", 4)
    show_all(sentry, actor, PERSON)
    assert (actor.board().visit_id != "", actor.board().ended_frame_sequence) == (True, 4)
    actor.frame = 0  # the frame ring was removed and created again
    show_all(sentry, actor, PERSON)
    assert actor.board().ended_frame_sequence == 0


@pytest.mark.parametrize("is_written", [True, False])
def test_board_shows_it_after_a_restart(
    make: Make, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    """Also if the end of the visit was saved, and the controller killed before it wrote the board."""
    sentry, actor = make(confirm_frames=1, confirm_s=0, clear_s=0.15)
    show_all(sentry, actor, EMPTY, PERSON, EMPTY, EMPTY)
    if not is_written:
        monkeypatch.setattr(sentry, "_write_board", lambda: None)
    show_all(sentry, actor, EMPTY)
    assert (actor.board().visit_id == "") == is_written
    sentry, actor = make(confirm_frames=1, confirm_s=0, clear_s=0.15)
    sentry.tick()
    assert (actor.board().visit_id, actor.board().ended_frame_sequence) == ("", 4)


def test_a_late_result_before_the_end_of_a_visit_is_not_after_it(make: Make) -> None:
    sentry, actor = make(confirm_frames=1, confirm_s=0, unknown_s=0.1, hold_s=0.2)
    actor.show(PERSON, age_s=0.01)
    sentry.on_wake()
    assert actor.board().visit_id
    assert sentry._decider.seen_ns is not None
    sentry._decider.seen_ns -= 10**9
    late = actor.show(PERSON, age_s=0.9)
    sentry.on_wake()
    assert (actor.board().visit_id, actor.board().ended_frame_sequence) == ("", late)
