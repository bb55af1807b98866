"""The state machine of one camera: a pure function from (memory, input) to (memory, transition).

It has no clock and does no I/O: times come with the inputs. Results carry their *capture* time, so that a file that is
analysed faster than real time gives exactly the same decisions as a live camera; the caller measures silence on the
monotonic clock. The transition table is documented in docs/sentry.md and checked against this code row by row.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Protocol


class State(enum.Enum):
    """What is known about a camera's view."""

    UNKNOWN = "unknown"
    STANDBY = "standby"
    VALIDATION = "validation"
    TRACKING = "tracking"


class Transition(enum.Enum):
    """A visit's transitions; the value is the last part of the event ID."""

    ARRIVED = "arrived"
    LEFT = "left"
    LOST = "lost"


class Keys(Protocol):
    """The thresholds of the state machine (``config.sentry``); times in seconds."""

    @property
    def confirm_frames(self) -> int: ...
    @property
    def confirm_s(self) -> float: ...
    @property
    def clear_s(self) -> float: ...
    @property
    def unknown_s(self) -> float: ...
    @property
    def hold_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Memory:
    """The complete memory of the state machine.

    Attributes:
        state: current state.
        visit_open: whether an arrival was published but not its end; kept through Unknown for ``hold_s``.
        person_frames: results with a person minus those without, in Validation; kept through Unknown for ``hold_s``.
        person_since_ns: capture time of the first of them.
        nobody_since_ns: capture time of the first of the most recent results without a person (Tracking only).
    """

    state: State = State.UNKNOWN
    visit_open: bool = False
    person_frames: int = 0
    person_since_ns: int | None = None
    nobody_since_ns: int | None = None

    @property
    def alarmed(self) -> bool:
        """Whether the camera should run at full rate because someone may be there."""
        return self.state in (State.VALIDATION, State.TRACKING) or self.visit_open


@dataclass(frozen=True, slots=True)
class Result:
    """One result: whether an object of an alarm class is in the frame, and its capture time (ns, monotonic)."""

    person: bool
    time_ns: int


@dataclass(frozen=True, slots=True)
class Silence:
    """The absence of results: seconds since the last usable one, and whether the camera itself is down."""

    seconds: float
    camera_down: bool = False


STANDBY = Memory(State.STANDBY)
TRACKING = Memory(State.TRACKING, visit_open=True)


def step(memory: Memory, seen: Result | Silence, keys: Keys) -> tuple[Memory, Transition | None]:
    """Return the memory after an input, and the visit's transition (None = no transition).

    The function is total: every memory accepts every input. If times run backwards (a restarted source), the current
    measurement starts over; such a step never counts as elapsed time.

    Args:
        memory: memory before the input.
        seen: a result, or silence.
        keys: thresholds.
    """
    if isinstance(seen, Silence):
        return _silence(memory, seen, keys)
    if memory.visit_open:
        return _in_visit(memory, seen, keys)
    if seen.person:
        return _person_appears(memory, seen, keys)
    # A detector misses a person occasionally, more often at a higher rate: one miss does not end Validation.
    if memory.person_frames > 1:
        frames = memory.person_frames - 1
        return replace(memory, state=State.VALIDATION, person_frames=frames), None
    return STANDBY, None


def _silence(memory: Memory, seen: Silence, keys: Keys) -> tuple[Memory, Transition | None]:
    if memory.state is State.UNKNOWN:
        if seen.seconds >= keys.hold_s:
            return Memory(), Transition.LOST if memory.visit_open else None
        return memory, None
    if seen.camera_down or seen.seconds >= keys.unknown_s:
        # The count is kept: a camera that is seen only now and then would never confirm a person otherwise.
        return replace(memory, state=State.UNKNOWN, nobody_since_ns=None), None
    return memory, None


def _in_visit(memory: Memory, seen: Result, keys: Keys) -> tuple[Memory, Transition | None]:
    if seen.person:
        return TRACKING, None
    since = memory.nobody_since_ns
    if since is None or since > seen.time_ns:
        # Counted from the first empty frame, not from the last person: a single frame after a gap must not give the
        # all-clear.
        return replace(TRACKING, nobody_since_ns=seen.time_ns), None
    if _seconds(since, seen.time_ns) >= keys.clear_s:
        return STANDBY, Transition.LEFT
    return memory, None


def _person_appears(memory: Memory, seen: Result, keys: Keys) -> tuple[Memory, Transition | None]:
    frames, since = memory.person_frames + 1, memory.person_since_ns
    if since is None or since > seen.time_ns:
        frames, since = 1, seen.time_ns
    if frames >= keys.confirm_frames and _seconds(since, seen.time_ns) >= keys.confirm_s:
        return TRACKING, Transition.ARRIVED
    # A higher count would only delay the return to Standby.
    frames = min(frames, max(1, keys.confirm_frames - 1))
    return Memory(State.VALIDATION, person_frames=frames, person_since_ns=since), None


def _seconds(start_ns: int, end_ns: int) -> float:
    return (end_ns - start_ns) / 1e9
