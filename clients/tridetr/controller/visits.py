"""Visits: the state machine's memory together with the identity of the visit; pure, and what the store keeps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
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

_LONGEST_ID = 36  # what the board has room for


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
        seen_unix_ns: up to when the view was seen (0 = not known).
        visit_classes: names of the classes seen in the open visit; the first is the one that alarmed.
    """

    memory: Memory = field(default_factory=Memory)
    visit_id: str = ""
    visit_since_unix_ns: int = 0
    state_since_unix_ns: int = 0
    frame_sequence: int = 0
    frame_time_ns: int = 0
    seen_unix_ns: int = 0
    visit_classes: tuple[str, ...] = ()

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
                "seen_unix_ns": self.seen_unix_ns,
                "visit_classes": self.visit_classes,
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
                _count(data["person_frames"]),
                _optional_count(data["person_since_ns"]),
                _optional_count(data["nobody_since_ns"]),
            )
            record = cls(
                memory,
                str(data["visit_id"]),
                _count(data["visit_since_unix_ns"]),
                _count(data["state_since_unix_ns"]),
                _count(data["frame_sequence"]),
                _count(data["frame_time_ns"]),
                _count(data.get("seen_unix_ns", 0)),
                tuple(str(name) for name in data.get("visit_classes", ())),
            )
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"not a sentry record: {error!r}") from None
        if len(record.visit_id.encode()) > _LONGEST_ID:
            raise ValueError(f"not a sentry record: visit id {record.visit_id!r}")
        if memory.visit_open != bool(record.visit_id):
            raise ValueError("not a sentry record: an open visit needs an id, and only it")
        if memory.visit_open and not record.visit_classes:
            return replace(record, visit_classes=("person",))  # saved when there was no other
        return record


@dataclass(frozen=True, slots=True)
class VisitEvent:
    """One event of a visit; ``event_id`` is the same however often it is sent."""

    transition: Transition
    visit_id: str
    visit_since_unix_ns: int
    at_unix_ns: int
    class_name: str = "person"

    @property
    def event_id(self) -> str:
        """Visit id and transition: a visit arrives once and ends once."""
        return f"{self.visit_id}:{self.transition.value}"

    @property
    def kind(self) -> str:
        """``person_arrived``, ``person_left`` or ``person_lost``; other classes likewise."""
        return kind(self.class_name, self.transition)


def slug(class_name: str) -> str:
    """Return a class name as part of topics, ids and kinds: ``traffic light`` becomes ``traffic_light``."""
    plain = class_name.encode("ascii", "backslashreplace").decode()
    return re.sub(r"[^A-Za-z0-9_-]", "_", plain)


def kind(class_name: str, transition: Transition) -> str:
    """Return the kind of the event that something of a class causes."""
    return f"{slug(class_name)}_{transition.value}"


def decide(
    record: Record,
    seen: Result | Silence,
    keys: Keys,
    *,
    at_unix_ns: int,
    new_visit_id: Callable[[], str],
    classes: Sequence[str] = (),
) -> tuple[Record, VisitEvent | None]:
    """Return the record after ``seen`` and the event to tell, if any.

    Args:
        record: the camera's record.
        seen: a result or silence.
        keys: thresholds.
        at_unix_ns: the wall-clock time of ``seen``.
        new_visit_id: makes the id of a visit that begins.
        classes: names of the classes that alarm in a result, best first.
    """
    memory, transition = step(record.memory, seen, keys)
    known = record.visit_classes
    if memory.visit_open:  # in order of appearance
        known = tuple(dict.fromkeys((*known, *classes)))
    if memory == record.memory and transition is None and known == record.visit_classes:
        return record, None
    since = record.state_since_unix_ns
    if memory.state is not record.memory.state:
        since = at_unix_ns
    after = replace(record, memory=memory, state_since_unix_ns=since, visit_classes=known)
    if transition is None:
        return after, None
    if transition is Transition.ARRIVED:
        known = known or ("person",)
        after = replace(
            after,
            visit_id=new_visit_id(),
            visit_since_unix_ns=at_unix_ns,
            visit_classes=known,
        )
        return after, VisitEvent(transition, after.visit_id, at_unix_ns, at_unix_ns, known[0])
    event = VisitEvent(
        transition,
        record.visit_id,
        record.visit_since_unix_ns,
        at_unix_ns,
        (*record.visit_classes, "person")[0],
    )
    return replace(after, visit_id="", visit_since_unix_ns=0, visit_classes=()), event


def _count(value: object) -> int:
    number = int(str(value))
    if not 0 <= number < 2**63:
        raise ValueError(f"not a sentry record: {number}")
    return number


def _optional_count(value: object) -> int | None:
    return None if value is None else _count(value)
