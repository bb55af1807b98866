"""Visits: the state machine's memory plus the identity of the open visit, saved as one record. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

from tridetr.controller.state_machine import Keys, Memory, Result, Silence, State, Transition, step

_LONGEST_ID = 36  # bytes; the size of the board's field


@dataclass(frozen=True, slots=True)
class Record:
    """The state of one camera's sentry that must survive a restart.

    Attributes:
        memory: memory of the state machine.
        visit_id: ID of the open visit; empty = none.
        visit_since_unix_ns: wall-clock time at which the visit was confirmed.
        state_since_unix_ns: wall-clock time at which the state began.
        frame_sequence: sequence number of the last frame whose decision was saved (0 = none).
        frame_time_ns: monotonic capture time of that frame; it identifies the frame together with the sequence.
        seen_unix_ns: wall-clock time up to which the view was seen (0 = unknown).
        visit_classes: names of the classes seen in the open visit; the first one triggered the alarm.
        boot_id: boot of the machine in which the record was saved; empty = unknown.
        visit_since_ns: monotonic time at which the visit was confirmed; 0 = in another boot, or of a recording.
        suspended_ns: ``boot_clock.suspended_ns`` that the monotonic times of this boot include.
        classes_in_view: with several alarm classes, ``JoinedClasses.in_view``; with one, ``visit_classes``.
        seen_boot_ns: `seen_unix_ns` by the clock of that boot (``boot_clock.now_ns``); 0 = unknown.
    """

    memory: Memory = field(default_factory=Memory)
    visit_id: str = ""
    visit_since_unix_ns: int = 0
    state_since_unix_ns: int = 0
    frame_sequence: int = 0
    frame_time_ns: int = 0
    seen_unix_ns: int = 0
    visit_classes: tuple[str, ...] = ()
    boot_id: str = ""
    visit_since_ns: int = 0
    suspended_ns: int = 0
    classes_in_view: tuple[str, ...] = ()
    seen_boot_ns: int = 0

    def age(self, suspended_ns: int) -> Record:
        """Return the record after a time for which the monotonic clock stood still."""
        return replace(
            self,
            visit_since_ns=max(0, self.visit_since_ns - suspended_ns),
            suspended_ns=self.suspended_ns + suspended_ns,
        )

    def to_json(self) -> str:
        """Return the record as JSON text: one object with the memory's fields and the others."""
        fields = asdict(self)
        memory = {**fields.pop("memory"), "state": self.memory.state.value}
        return json.dumps(memory | fields)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Return the record in the output of ``to_json``.

        Raises:
            ValueError: the text is not a valid record.
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
                str(data.get("boot_id", "")),
                _count(data.get("visit_since_ns", 0)),
                _count(data.get("suspended_ns", 0)),
                # Version 0.1 does not save it; the class of the visit itself must not join it
                tuple(map(str, data.get("classes_in_view", data.get("visit_classes", ())[:1]))),
                _count(data.get("seen_boot_ns", 0)),
            )
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"not a sentry record: {error!r}") from None
        if len(record.visit_id.encode()) > _LONGEST_ID:
            raise ValueError(f"not a sentry record: visit id {record.visit_id!r}")
        if memory.visit_open != bool(record.visit_id):
            raise ValueError(
                "not a sentry record: it must have a visit ID if and only if a visit is open"
            )
        if memory.visit_open and not record.visit_classes:
            only = ("person",)  # saved when this was the only class
            return replace(record, visit_classes=only, classes_in_view=only)
        return record


JOINED = "joined"  # the action of a class that arrives while a visit is open already


@dataclass(frozen=True, slots=True)
class VisitEvent:
    """One event of a visit; ``event_id`` is the same for every attempt to send it.

    Attributes:
        joined: unique ID, if the class arrived in a visit that was open already; empty: the visit's own event.
    """

    transition: Transition
    visit_id: str
    visit_since_unix_ns: int
    at_unix_ns: int
    class_name: str = "person"
    joined: str = ""

    @property
    def event_id(self) -> str:
        """Visit ID and action: unique, because a visit arrives once and ends once."""
        if self.joined:
            return f"{self.visit_id}:{self.joined}:{JOINED}"
        return f"{self.visit_id}:{self.transition.value}"

    @property
    def kind(self) -> str:
        """Class and action, such as ``person_arrived``, ``person_joined``, ``person_left`` or ``person_lost``."""
        return kind(self.class_name, JOINED if self.joined else self.transition.value)


def slug(class_name: str) -> str:
    """Return a class name in the form used in topics, IDs and kinds: ``traffic light`` becomes ``traffic_light``."""
    plain = class_name.encode("ascii", "backslashreplace").decode()
    return re.sub(r"[^A-Za-z0-9_-]", "_", plain)


def kind(class_name: str, action: str) -> str:
    """Return the kind of an event.

    Example:
        >>> kind("traffic light", "left")
        'traffic_light_left'
    """
    return f"{slug(class_name)}_{action}"


def decide(
    record: Record,
    seen: Result | Silence,
    keys: Keys,
    *,
    at_unix_ns: int,
    new_visit_id: Callable[[], str],
    classes: Sequence[str] = (),
) -> tuple[Record, VisitEvent | None]:
    """Return the record after an input and the event to publish, if any.

    Args:
        record: record of the camera.
        seen: a result, or silence.
        keys: thresholds.
        at_unix_ns: wall-clock time of ``seen``.
        new_visit_id: returns the ID for a new visit.
        classes: names of the alarm classes in a result, best score first.
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
            after, visit_id=new_visit_id(), visit_since_unix_ns=at_unix_ns, visit_classes=known
        )
        return after, VisitEvent(transition, after.visit_id, at_unix_ns, at_unix_ns, known[0])
    event = VisitEvent(
        transition,
        record.visit_id,
        record.visit_since_unix_ns,
        at_unix_ns,
        (*record.visit_classes, "person")[0],
    )
    return replace(
        after, visit_id="", visit_since_unix_ns=0, visit_classes=(), visit_since_ns=0
    ), event


def _count(value: object) -> int:
    number = int(str(value))
    if not 0 <= number < 2**63:
        raise ValueError(f"not a sentry record: {number}")
    return number


def _optional_count(value: object) -> int | None:
    return None if value is None else _count(value)
