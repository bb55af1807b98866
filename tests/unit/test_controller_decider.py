"""Decisions after old pictures, gaps and restarts, in any order, by the age of what was seen."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tridetr.controller.decider import Change, Decider
from tridetr.controller.sight import LATE_RESULTS_S
from tridetr.controller.state_machine import Memory, Result, State, Transition
from tridetr.controller.visits import Record

S = 1_000_000_000
WALL = 1_700_000_000 * S
KEYS = SimpleNamespace(confirm_frames=2, confirm_s=0.3, clear_s=2.0, unknown_s=5.0, hold_s=20.0)


@dataclass
class Camera:
    """The reported capture state; ``down`` = offline, ``frozen`` = frozen or blind."""

    down: bool = False
    frozen: bool = False
    capture_alive: bool = True

    def is_down(self, silent_s: float) -> bool:
        return self.frozen or (self.down and silent_s >= LATE_RESULTS_S)


class Bench:
    def __init__(self, record: Record | None = None, seen_ns: int | None = None) -> None:
        self.now = 1000 * S
        self.camera = Camera()
        self.ids = (f"v{n}" for n in itertools.count())
        self.decider = self.make(record or Record(), seen_ns)
        self.changes: list[Change] = []

    def make(self, record: Record, seen_ns: int | None) -> Decider:
        return Decider(KEYS, record, seen_ns, lambda: next(self.ids))

    def wait(self, seconds: float = 0.0) -> None:
        self.now += round(seconds * S)
        self.changes += self.decider.wait(self.camera, self.now, WALL + self.now)

    def look(self, person: bool, age_s: float = 0.1) -> list[Change]:
        captured = self.now - round(age_s * S)
        found = self.decider.look(
            Result(person, captured),
            ["person"] if person else [],
            self.camera,
            seen_ns=captured,
            now_ns=self.now,
            capture_unix_ns=WALL + captured,
        )
        self.changes += found
        return found

    def state(self) -> State:
        return self.decider.record.memory.state


@pytest.mark.parametrize("person", [False, True])
@pytest.mark.parametrize("age_s", [5.0, 12.0, 1e6])
def test_an_old_picture_never_ends_unknown(person: bool, age_s: float) -> None:
    """A restarted detector infers the last frame of an offline camera, which must not give an all-clear."""
    bench = Bench()
    for _ in range(5):
        assert bench.look(person, age_s) == []
        bench.wait(0.1)
    assert bench.state() is State.UNKNOWN


def test_picture_of_a_camera_that_just_went_offline_never_ends_unknown() -> None:
    bench = Bench()
    bench.look(False)
    bench.camera.down = True
    bench.wait(3.0)
    assert bench.state() is State.UNKNOWN
    assert bench.look(False, age_s=3.0) == []
    assert bench.look(False, age_s=1.0) == []
    assert bench.state() is State.UNKNOWN


def test_silence_counts_from_the_capture_of_what_was_seen() -> None:
    bench = Bench()
    bench.look(False, age_s=3.0)
    bench.wait(1.9)
    assert bench.state() is State.STANDBY
    bench.wait(0.1)
    assert bench.state() is State.UNKNOWN


def test_results_that_waited_count_at_their_capture_time() -> None:
    """A controller that was paused for 4.9 s has missed nothing: the visit ends when its pictures show it."""
    bench = Bench()
    for _ in range(3):
        bench.wait(0.2)
        bench.look(True)
    assert bench.state() is State.TRACKING
    bench.now += round(4.9 * S)
    ages = [4.8 - 0.2 * n for n in range(24)]
    for age in ages:
        bench.look(False, age)
    bench.wait()
    assert bench.state() is State.STANDBY
    assert [c.event.transition for c in bench.changes if c.event] == [
        Transition.ARRIVED, Transition.LEFT,
    ]  # fmt: skip
    assert State.UNKNOWN not in [c.after.memory.state for c in bench.changes]


def test_an_old_picture_does_not_prolong_a_held_visit() -> None:
    record = Record(
        Memory(State.TRACKING, visit_open=True), "v", WALL, WALL, visit_classes=("car",)
    )
    bench = Bench(record, 1000 * S)
    bench.camera.frozen = True
    for _ in range(30):
        bench.wait(1.0)
        bench.look(True)
    ends = [c.event for c in bench.changes if c.event]
    assert [(e.kind, e.visit_id) for e in ends] == [("car_lost", "v")]


actions = st.one_of(
    st.tuples(st.just("wait"), st.floats(0, 8)),
    st.tuples(st.just("look"), st.booleans(), st.floats(0, 12)),
    st.tuples(st.just("see"), st.booleans(), st.integers(1, 30)),
    st.tuples(st.just("camera"), st.sampled_from(["down", "frozen", "capture_alive"])),
    st.tuples(st.just("restart"), st.floats(0, 30)),
)


@given(st.lists(actions, max_size=40))
def test_any_interleaving_of_gaps_restarts_and_old_results(course: list[tuple[Any, ...]]) -> None:
    bench = Bench()
    fresh: dict[
        int, bool
    ] = {}  # capture times of pictures that were recent when they were decided on

    def look(person: bool, age_s: float) -> None:
        young = age_s < KEYS.unknown_s and not bench.camera.is_down(age_s)
        before = bench.state()
        found = bench.look(person, age_s)
        if young:
            fresh[bench.now - round(age_s * S)] = person
        else:
            assert found == [], "an old picture changes nothing"
            assert bench.state() is before

    for action, *arguments in course:
        if action == "wait":
            bench.wait(*arguments)
        elif action == "look":
            bench.wait(0.01)
            look(*arguments)
        elif action == "see":
            person, count = arguments
            for _ in range(count):
                bench.wait(0.25)
                look(person, 0.1)
        elif action == "camera":
            setattr(bench.camera, arguments[0], not getattr(bench.camera, arguments[0]))
            bench.wait()
        else:
            record = Record.from_json(bench.decider.record.to_json())
            bench.decider = bench.make(record, bench.decider.seen_ns)
            bench.wait(*arguments)
        bench.wait()
        # The state is known only if there is a recent picture of a camera that is up.
        newest = max(fresh, default=None)
        age_s = None if newest is None else (bench.now - newest) / S
        if bench.state() is not State.UNKNOWN:
            assert age_s is not None
            assert age_s < KEYS.unknown_s
            assert not bench.camera.is_down(age_s)
        if bench.decider.record.memory.visit_open:
            assert age_s is not None
            assert age_s < KEYS.hold_s
    events = [change.event for change in bench.changes if change.event]
    for first, second in itertools.pairwise(events):
        assert (first.transition is Transition.ARRIVED) != (second.transition is Transition.ARRIVED)
        if first.transition is Transition.ARRIVED:
            assert first.visit_id == second.visit_id
    assert len({event.event_id for event in events}) == len(events)


def test_all_clear_requires_recent_pictures_for_clear_s() -> None:
    bench = Bench()
    for _ in range(3):
        bench.wait(0.2)
        bench.look(True)
    bench.wait(6)  # blind
    assert bench.state() is State.UNKNOWN
    bench.look(False, age_s=4.9)
    bench.look(False, age_s=3.5)
    assert bench.decider.record.memory.visit_open
    bench.look(False, age_s=0.1)
    assert bench.state() is State.STANDBY
