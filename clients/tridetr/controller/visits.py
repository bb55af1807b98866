"""Visits: the state machine's memory together with the identity of the visit; pure, and what the store keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tridetr.controller.state_machine import (
    Keys,
    Memory,
    Result,
    Silence,
    State,
    Transition,
    step,
)


@dataclass(frozen=True, slots=True)
class Record:
    """What must survive a restart of one camera's sentry.

    Attributes:
        memory: the state machine's memory.
        visit_id: of the open visit, else empty.
        visit_since_unix_ns: when that visit was told.
        state_since_unix_ns: when the state began.
        frame_sequence: sequence of the frame whose decision was saved last (0 = none).
        frame_time_ns: its capture time (monotonic), which together with the sequence names it for certain.
    """

    memory: Memory = field(default_factory=Memory)
    visit_id: str = ""
    visit_since_unix_ns: int = 0
    state_since_unix_ns: int = 0
    frame_sequence: int = 0
    frame_time_ns: int = 0

    def to_json(self) -> str:
        """Return the record as JSON text."""
        memory = self.memory
        return json.dumps(
            {
                "state": memory.state.value,
                "visit_open": memory.visit_open,
                "person_frames": memory.person_frames,
                "person_since_ns": memory.person_since_ns,
                "nobody_since_ns": memory.nobody_since_ns,
                "visit_id": self.visit_id,
                "visit_since_unix_ns": self.visit_since_unix_ns,
                "state_since_unix_ns": self.state_since_unix_ns,
                "frame_sequence": self.frame_sequence,
                "frame_time_ns": self.frame_time_ns,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Return the record of ``to_json``.

        Raises:
            ValueError: the text is no such record.
        """
        try:
            data = json.loads(text)
            memory = Memory(
                State(data["state"]),
                bool(data["visit_open"]),
                int(data["person_frames"]),
                _optional_int(data["person_since_ns"]),
                _optional_int(data["nobody_since_ns"]),
            )
            record = cls(
                memory,
                str(data["visit_id"]),
                int(data["visit_since_unix_ns"]),
                int(data["state_since_unix_ns"]),
                int(data["frame_sequence"]),
                int(data["frame_time_ns"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a sentry record: {error!r}") from None
        if memory.visit_open != bool(record.visit_id):
            raise ValueError("not a sentry record: an open visit needs an id, and only it")
        return record


@dataclass(frozen=True, slots=True)
class VisitEvent:
    """One event of a visit; ``event_id`` is the same however often it is sent."""

    transition: Transition
    visit_id: str
    visit_since_unix_ns: int
    at_unix_ns: int

    @property
    def event_id(self) -> str:
        """Visit id and transition: a visit arrives once and ends once."""
        return f"{self.visit_id}:{self.transition.value}"

    @property
    def kind(self) -> str:
        """``person_arrived``, ``person_left`` or ``person_lost``."""
        return f"person_{self.transition.value}"


def decide(
    record: Record,
    seen: Result | Silence,
    keys: Keys,
    *,
    at_unix_ns: int,
    new_visit_id: Callable[[], str],
) -> tuple[Record, VisitEvent | None]:
    """Return the record after ``seen`` and the event to tell, if any.

    Args:
        record: the camera's record.
        seen: a result or silence.
        keys: thresholds.
        at_unix_ns: the wall-clock time of ``seen``.
        new_visit_id: makes the id of a visit that begins.
    """
    memory, transition = step(record.memory, seen, keys)
    if memory == record.memory and transition is None:
        return record, None
    since = record.state_since_unix_ns
    if memory.state is not record.memory.state:
        since = at_unix_ns
    after = replace(record, memory=memory, state_since_unix_ns=since)
    if transition is None:
        return after, None
    if transition is Transition.ARRIVED:
        after = replace(after, visit_id=new_visit_id(), visit_since_unix_ns=at_unix_ns)
        return after, VisitEvent(transition, after.visit_id, at_unix_ns, at_unix_ns)
    event = VisitEvent(transition, record.visit_id, record.visit_since_unix_ns, at_unix_ns)
    return replace(after, visit_id="", visit_since_unix_ns=0), event


def _optional_int(value: object) -> int | None:
    return None if value is None else int(str(value))
