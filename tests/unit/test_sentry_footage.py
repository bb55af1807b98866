"""The default thresholds on a real model's results for real footage: five visits, whichever frames are skipped."""

from __future__ import annotations

import json

import pytest

from support.data import FOOTAGE_TRUTH, shared
from tridetr.config import SentrySection
from tridetr.controller.state_machine import Memory, Result, State, Transition, step

FPS = 10
VISITS = [(228, 444), (511, 694), (747, 863), (940, 1182), (1237, 1357)]
NS = 1_000_000_000


@pytest.mark.parametrize("every", [1, 2, 3], ids=lambda n: f"model takes every {n}")
@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_five_visits_give_five_alarms(start: int, every: int) -> None:
    frames = json.loads(shared(*FOOTAGE_TRUTH).read_text())["detections"]
    keys = SentrySection()
    memory, found, last = Memory(), [], -NS
    for number in range(start, len(frames), every):
        now = number * NS // FPS
        standby = memory.state in (State.STANDBY, State.UNKNOWN) and not memory.visit_open
        if standby and now - last < NS / keys.standby_fps:
            continue
        last = now
        person = any(row[4] >= 0.5 for row in frames[number])
        memory, transition = step(memory, Result(person, now), keys)
        if transition:
            found.append((transition, number))
    assert [t for t, _ in found] == [Transition.ARRIVED, Transition.LEFT] * 5
    for (_, arrived), (_, left), (first, end) in zip(found[::2], found[1::2], VISITS, strict=True):
        assert first <= arrived <= first + 2 * FPS
        # The last visits flicker at their ends; the all-clear comes clear_s after the last certain detection.
        assert end <= left <= end + 5 * FPS
