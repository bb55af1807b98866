"""Visits across a suspension of the machine, for which CLOCK_MONOTONIC stands still."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.sentry import EMPTY, PERSON, Actor
from tridetr import boot_clock
from tridetr.config import Config
from tridetr.controller import suspension
from tridetr.controller.camera_control import CameraSentry
from tridetr.controller.joined_classes import JoinedClasses
from tridetr.controller.payloads import Box
from tridetr.controller.resume import read_board, resume
from tridetr.controller.state_machine import State
from tridetr.controller.store import Store
from tridetr.served_model import ServedModelReader
from tridetr.shm.boards import SentryState

HOLD_S = 20.0


class Node:
    """One camera's controller, whose machine can be suspended."""

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        self.instance = config.instance
        self._suspended_ns = boot_clock.suspended_ns()
        monkeypatch.setattr(boot_clock, "suspended_ns", lambda: self._suspended_ns)
        monkeypatch.setattr(suspension, "_BUFFERED_NS", 0)
        self.actor = Actor(config.instance, "cam")
        self.store = Store(config.state_dir, outbox_limit=100)
        models = ServedModelReader(config.run_dir)
        self.sentry = CameraSentry(config, "cam", self.store, models, "node1", lambda _: None)

    def suspend(self, seconds: float) -> None:
        self._suspended_ns += round(seconds * 1e9)

    def show(self, *pictures: Any, age_s: float | None = 0.0) -> None:
        for detections in pictures:
            self.actor.show(detections, age_s=age_s)
            self.sentry.on_wake()

    @property
    def state(self) -> State:
        return self.sentry.record.memory.state

    @property
    def events(self) -> list[str]:
        return [row.kind for row in self.store.outbox.values()]

    def close(self) -> None:
        self.sentry.close()
        self.store.close()


Make = Callable[..., Node]


@pytest.fixture
def make(tmp_path: Path, instance: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[Node] = []

    def build(source: str = "synthetic", *, realtime: bool = True) -> Node:
        config = Config.model_validate(
            {
                "instance": instance,
                "cameras": {"cam": {"source": source, "realtime": realtime}},
                "sentry": {
                    "confirm_frames": 1,
                    "confirm_s": 0,
                    "clear_s": 0.01,
                    "unknown_s": 5,
                    "hold_s": HOLD_S,
                },
                "run_dir": str(tmp_path),
                "state_dir": str(tmp_path / "state"),
            }
        )
        made.append(Node(config, monkeypatch))
        return made[-1]

    yield build
    for node in made:
        node.close()
        node.actor.close()


@pytest.fixture
def node(make: Make) -> Node:
    node = make()
    node.show(PERSON)
    assert node.events == ["person_arrived"]
    return node


def test_a_person_after_a_long_suspension_is_a_new_visitor(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tridetr.controller")
    before = node.sentry.record.visit_id
    node.actor.show(PERSON, age_s=0)  # captured before, decided after
    node.suspend(8 * 3600)
    node.sentry.on_wake()
    assert (node.state, node.events) == (State.UNKNOWN, ["person_arrived", "person_lost"])
    assert node.actor.state() is SentryState.UNKNOWN
    assert "suspended for 28800 s" in caplog.text
    node.show(PERSON)
    assert node.events == ["person_arrived", "person_lost", "person_arrived"]
    assert node.sentry.record.visit_id != before
    assert "camera_lost" in caplog.messages
    assert "camera_back" in caplog.messages


def test_an_empty_view_after_a_long_suspension_is_no_all_clear(node: Node) -> None:
    node.suspend(HOLD_S)
    node.sentry.tick()
    assert node.state is State.UNKNOWN
    node.show(EMPTY)
    assert (node.state, node.events) == (State.STANDBY, ["person_arrived", "person_lost"])


def test_a_short_suspension_holds_the_visit(node: Node) -> None:
    before = node.sentry.record.visit_id
    node.suspend(HOLD_S - 1)
    node.sentry.tick()
    assert (node.state, node.events) == (State.UNKNOWN, ["person_arrived"])
    assert (node.sentry.facts().last_result_age_s or 0) >= HOLD_S - 1
    node.show(PERSON)
    assert (node.state, node.sentry.record.visit_id) == (State.TRACKING, before)
    node.sentry.tick()  # counted once
    assert node.state is State.TRACKING


def test_pictures_in_buffers_end_unknown_no_sooner_than_a_second_later(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network camera's last packets are read, and stamped, only after the machine wakes up."""
    monkeypatch.setattr(suspension, "_BUFFERED_NS", 3600 * 10**9)
    node.suspend(HOLD_S)
    node.sentry.tick()
    node.show(EMPTY, EMPTY, PERSON)
    assert node.state is State.UNKNOWN


def test_a_controller_that_is_killed_before_it_notices_has_been_suspended_too(node: Node) -> None:
    node.sentry.tick()
    node.suspend(HOLD_S)
    record, seen_ns = resume(node.store, "cam", read_board(node.instance, "cam"))
    assert record.visit_id
    assert seen_ns is not None
    assert (time.monotonic_ns() - seen_ns) / 1e9 >= HOLD_S


def test_a_recording_has_missed_nothing(make: Make, tmp_path: Path) -> None:
    """It waits for each decision, so its time stands still too."""
    node = make(str(tmp_path / "recording.mp4"), realtime=False)
    node.show(PERSON, age_s=None)
    node.suspend(8 * 3600)
    node.sentry.tick()
    node.show(PERSON, age_s=None)
    assert (node.state, node.events) == (State.TRACKING, ["person_arrived"])


@pytest.mark.parametrize(("step_s", "is_logged"), [(HOLD_S + 1, True), (HOLD_S / 2, False)])
def test_a_clock_set_forward_during_a_visit_is_logged(
    node: Node,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step_s: float,
    *,
    is_logged: bool,
) -> None:
    """A virtual machine that is paused does not notice; its clock may be corrected afterwards."""
    now_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + round(step_s * 1e9))
    node.sentry.tick()
    node.sentry.tick()
    assert caplog.text.count("the clock was set forward") == is_logged
    assert (node.state, node.events) == (State.TRACKING, ["person_arrived"])


def test_a_class_that_was_gone_for_hold_s_including_a_suspension_joins_again() -> None:
    keys = SimpleNamespace(confirm_frames=1, confirm_s=0, clear_s=0, unknown_s=5, hold_s=HOLD_S)
    joined = JoinedClasses(keys, ("car", "person"), ())
    person = Box("person", 0.8, (400.0, 100.0, 450.0, 250.0))
    assert joined.look([person], 10**12) == ["person"]
    for second in (1, 2):
        assert joined.look([], 10**12 + second * 10**9) == []
    joined.age(round(HOLD_S * 1e9))
    assert joined.look([person], 10**12 + 3 * 10**9) == ["person"]
