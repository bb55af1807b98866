"""The transition table of docs/sentry.md is the specification: test each row, and random walks against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tridetr.controller.state_machine import (
    STANDBY,
    TRACKING,
    Keys,
    Memory,
    Result,
    Silence,
    State,
    Transition,
    step,
)

DOCS = Path(__file__).parents[2] / "docs" / "sentry.md"
SECOND = 1_000_000_000
KEYS = SimpleNamespace(confirm_frames=3, confirm_s=0.5, clear_s=3.0, unknown_s=5.0, hold_s=60.0)


@dataclass(frozen=True)
class Row:
    state: str
    input: str
    condition: str
    next: str
    event: str
    mode: str


def read_table() -> list[Row]:
    text = DOCS.read_text(encoding="utf-8")
    body = text.split("<!-- transitions:begin -->")[1].split("<!-- transitions:end -->")[0]
    lines = [line for line in body.strip().splitlines() if line.startswith("|")][2:]
    return [Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in lines]


TABLE = read_table()


def state_name(memory: Memory) -> str:
    held = memory.state is State.UNKNOWN and memory.visit_open
    return memory.state.name.capitalize() + (" (visit held)" if held else "")


def confirmed(memory: Memory, seen: Result, keys: Keys) -> bool:
    since, frames = memory.person_since_ns, memory.person_frames + 1
    if since is None or since > seen.time_ns:
        since, frames = seen.time_ns, 1
    enough_s = (seen.time_ns - since) / SECOND >= keys.confirm_s
    return frames >= keys.confirm_frames and enough_s


def empty_for_clear_s(memory: Memory, seen: Result, keys: Keys) -> bool:
    since = memory.nobody_since_ns
    return since is not None and (seen.time_ns - since) / SECOND >= keys.clear_s


CONDITIONS: dict[str, Callable[[Memory, Any, Keys], bool]] = {
    "": lambda memory, seen, keys: True,
    "confirmed": confirmed,
    "not confirmed": lambda memory, seen, keys: not confirmed(memory, seen, keys),
    "some are left": lambda memory, seen, keys: memory.person_frames > 1,
    "none is left": lambda memory, seen, keys: memory.person_frames <= 1,
    "view empty for clear_s": empty_for_clear_s,
    "view empty for less than clear_s": lambda m, seen, keys: not empty_for_clear_s(m, seen, keys),
    "shorter than unknown_s, camera up": lambda memory, seen, keys: (
        seen.seconds < keys.unknown_s and not seen.camera_down
    ),
    "unknown_s or longer, or camera down": lambda memory, seen, keys: (
        seen.seconds >= keys.unknown_s or seen.camera_down
    ),
    "shorter than hold_s": lambda memory, seen, keys: seen.seconds < keys.hold_s,
    "hold_s or longer": lambda memory, seen, keys: seen.seconds >= keys.hold_s,
}


def input_name(seen: Result | Silence) -> str:
    if isinstance(seen, Silence):
        return "silence"
    return "person" if seen.person else "no person"


def matching_rows(memory: Memory, seen: Result | Silence, keys: Keys) -> list[Row]:
    return [
        row
        for row in TABLE
        if (row.state, row.input) == (state_name(memory), input_name(seen))
        and CONDITIONS[row.condition](memory, seen, keys)
    ]


def check(memory: Memory, seen: Result | Silence, keys: Keys) -> tuple[Memory, Row]:
    rows = matching_rows(memory, seen, keys)
    assert len(rows) == 1, f"{memory} and {seen} match {rows}"
    after, transition = step(memory, seen, keys)
    row = rows[0]
    assert state_name(after) == row.next
    assert (f"person_{transition.value}" if transition else "") == row.event
    assert ("alarmed" if after.alarmed else "standby") == row.mode
    return after, row


VALIDATION = Memory(State.VALIDATION, person_frames=2, person_since_ns=10 * SECOND)
CLEARING = Memory(State.TRACKING, visit_open=True, nobody_since_ns=10 * SECOND)
HELD = Memory(State.UNKNOWN, visit_open=True)
AT_ONCE = SimpleNamespace(**{**vars(KEYS), "confirm_frames": 1, "confirm_s": 0.0})

# (memory, input, keys) for each row, chosen at its border.
EXAMPLES = [
    (STANDBY, Result(True, 0), AT_ONCE),
    (STANDBY, Result(True, 0), KEYS),
    (STANDBY, Result(False, 0), KEYS),
    (STANDBY, Silence(4.999), KEYS),
    (STANDBY, Silence(5.0), KEYS),
    (VALIDATION, Result(True, 10 * SECOND + SECOND // 2), KEYS),
    (VALIDATION, Result(True, 10 * SECOND + SECOND // 2 - 1), KEYS),
    (VALIDATION, Result(False, 11 * SECOND), KEYS),
    (replace(VALIDATION, person_frames=1), Result(False, 11 * SECOND), KEYS),
    (VALIDATION, Silence(4.999), KEYS),
    (VALIDATION, Silence(0.0, camera_down=True), KEYS),
    (TRACKING, Result(True, 0), KEYS),
    (CLEARING, Result(False, 13 * SECOND - 1), KEYS),
    (CLEARING, Result(False, 13 * SECOND), KEYS),
    (TRACKING, Silence(4.999), KEYS),
    (TRACKING, Silence(1.0, camera_down=True), KEYS),
    (Memory(), Result(True, 0), AT_ONCE),
    (Memory(), Result(True, 0), KEYS),
    (replace(VALIDATION, state=State.UNKNOWN), Result(False, 11 * SECOND), KEYS),
    (Memory(), Result(False, 0), KEYS),
    (Memory(), Silence(1e9), KEYS),
    (HELD, Result(True, 0), KEYS),
    (HELD, Result(False, 0), KEYS),
    (HELD, Silence(59.999), KEYS),
    (HELD, Silence(60.0), KEYS),
]


@pytest.mark.parametrize(
    ("row", "example"),
    list(zip(TABLE, EXAMPLES, strict=True)),
    ids=[f"{row.state}-{row.input}-{row.condition}" for row in TABLE],
)
def test_each_row_of_the_table(row: Row, example: tuple[Memory, Result | Silence, Keys]) -> None:
    memory, seen, keys = example
    assert check(memory, seen, keys)[1] == row


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
@pytest.mark.parametrize("step_s", [0.1, 0.34])
def test_confirmation_needs_frames_and_time(frames: int, step_s: float) -> None:
    keys = SimpleNamespace(**{**vars(KEYS), "confirm_frames": frames})
    memory, arrived_at = STANDBY, None
    for index in range(20):
        memory, transition = step(memory, Result(True, round(index * step_s * SECOND)), keys)
        if transition and arrived_at is None:
            arrived_at = index
    needed = max(frames - 1, next(i for i in range(20) if round(i * step_s * SECOND) >= SECOND / 2))
    assert arrived_at == needed


@pytest.mark.parametrize("fps", [5, 10, 30])
def test_a_detector_that_misses_some_frames_alarms_at_any_rate(fps: int) -> None:
    """A miss must not restart the confirmation: at 30 fps, a person may be detected in only 5 of 6 frames."""
    for pattern in ("111110", "1110", "110"):
        memory = STANDBY
        for index in range(2 * fps):
            seen = pattern[index % len(pattern)] == "1"
            memory, transition = step(memory, Result(seen, round(index * SECOND / fps)), KEYS)
            if transition:
                break
        assert transition is Transition.ARRIVED, pattern
    memory = STANDBY
    for index in range(100):  # and what is seen now and then is no visit
        memory, transition = step(memory, Result(index % 3 == 0, round(index * SECOND / fps)), KEYS)
        assert transition is None


@pytest.mark.parametrize(("gap_s", "alarms"), [(5.15, True), (59.0, True), (60.0, False)])
def test_gaps_shorter_than_hold_s_do_not_restart_the_confirmation(
    gap_s: float, alarms: bool
) -> None:
    memory, transitions = STANDBY, []
    for index in range(8):
        for _ in range(2):
            memory, _ = step(memory, Silence(gap_s), KEYS)
        memory, transition = step(memory, Result(True, round(index * gap_s * SECOND)), KEYS)
        transitions.append(transition)
    expected = [None, None, Transition.ARRIVED] if alarms else [None] * 3
    assert transitions[:3] == expected


def test_one_frame_after_a_gap_gives_no_all_clear() -> None:
    memory, _ = step(TRACKING, Result(True, 0), KEYS)
    memory, transition = step(memory, Result(False, 4 * SECOND), KEYS)
    assert transition is None
    assert memory.state is State.TRACKING


def test_backward_times_do_not_count_as_elapsed_time() -> None:
    memory, transition = step(CLEARING, Result(False, 1 * SECOND), KEYS)
    assert (memory.nobody_since_ns, transition) == (1 * SECOND, None)
    memory, transition = step(VALIDATION, Result(True, 1 * SECOND), KEYS)
    assert (memory.person_frames, memory.person_since_ns, transition) == (1, 1 * SECOND, None)


keys_strategy = st.builds(
    SimpleNamespace,
    confirm_frames=st.integers(1, 4),
    confirm_s=st.sampled_from([0.0, 0.2, 1.0]),
    clear_s=st.sampled_from([0.1, 1.0, 3.0]),
    unknown_s=st.sampled_from([0.5, 5.0]),
    hold_s=st.sampled_from([1.0, 60.0]),
)
inputs_strategy = st.lists(
    st.one_of(
        # Mostly forwards in time, sometimes backwards.
        st.builds(Result, st.booleans(), st.integers(-SECOND, 2 * SECOND)),
        st.builds(Silence, st.floats(0, 100), st.booleans()),
    ),
    max_size=60,
)


@given(keys_strategy, inputs_strategy)
def test_random_walks_follow_the_table(keys: Keys, inputs: list[Result | Silence]) -> None:
    memory, now, open_visit = Memory(), 0, False
    for seen in inputs:
        if isinstance(seen, Result):
            now += seen.time_ns
            seen = Result(seen.person, now)
        _, transition = step(memory, seen, keys)
        memory, _ = check(memory, seen, keys)
        if transition is Transition.ARRIVED:
            assert not open_visit, "a second arrival without an end in between"
            open_visit = True
        elif transition is not None:
            assert open_visit, "an end without an arrival"
            open_visit = False
        assert memory.visit_open is open_visit


@given(keys_strategy, inputs_strategy)
def test_every_state_leads_back_to_standby_and_unknown(
    keys: Keys, inputs: list[Result | Silence]
) -> None:
    """From every state, an empty view leads to Standby, and endless silence to Unknown without a visit."""
    memory, now = Memory(), 0
    for seen in inputs:
        if isinstance(seen, Result):
            now += seen.time_ns
            seen = Result(seen.person, now)
        memory, _ = step(memory, seen, keys)
    calm = memory
    for _ in range(3):
        calm, _ = step(calm, Result(False, now), keys)
        now += round(keys.clear_s * SECOND) + 1
    assert calm == STANDBY
    for _ in range(2):
        memory, _ = step(memory, Silence(keys.hold_s + keys.unknown_s), keys)
    assert memory == Memory()
