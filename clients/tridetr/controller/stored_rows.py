"""The rows that the store keeps, and the checks for rows that were read back."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, fields
from typing import TypeAlias

LARGEST_SEQ = 2**53  # exact in JavaScript too
# Brokers close the connection on control characters, and paho refuses wildcards
_NOT_IN_TOPICS = re.compile(r"[\x00-\x1f\x7f-\x9f#+]")


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row that is not stored yet; the store assigns its number."""

    unix_ns: int
    kind: str
    details: str
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One stored event or history note.

    Attributes:
        seq: increasing number.
        unix_ns: wall-clock time of the decision.
        camera: name of the camera.
        kind: kind of the event or note.
        details: JSON text.
        event_id: ID of an MQTT event; empty = the row is for the history only.
        targets: names of the notification targets that must get it.
    """

    seq: int
    unix_ns: int
    camera: str
    kind: str
    details: str
    event_id: str = ""
    targets: tuple[str, ...] = ()


Notice: TypeAlias = tuple[str, str]  # target, event ID


@dataclass(frozen=True, slots=True)
class Saved:
    """A camera's saved record (JSON text) and when it was saved."""

    record: str
    updated_unix_ns: int


@dataclass(slots=True)
class Contents:
    """The contents of a database.

    Attributes:
        cameras: saved records by camera.
        outbox: events that are waiting for the broker, oldest first.
        history: past events and notes, oldest first; filled by ``rescue`` only.
        retained: topics that hold a retained message of this node, with the entities that it declares (JSON).
        last_seq: highest number assigned so far.
        notices: events that a notification target has not received yet, oldest first.
        settings: manual settings, known outages and what was cleared at the broker, by name.
        is_whole: whether nothing that was stored is missing, as far as can be known.
    """

    cameras: dict[str, Saved] = field(default_factory=dict)
    outbox: list[Row] = field(default_factory=list)
    history: list[Row] = field(default_factory=list)
    retained: dict[str, str] = field(default_factory=dict)
    last_seq: int = 0
    notices: dict[Notice, Row] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    is_whole: bool = True


@dataclass(slots=True)
class Changes:
    """Changes that are not in the database yet.

    Attributes:
        cameras: records to save, by camera.
        forgotten: cameras to remove.
        rows: new rows, ordered by number; rows with an event ID also go into the outbox.
        leaving: IDs of events to remove from the outbox.
        retained: entities by topic; None removes the topic.
        notices: queued notifications by target and event ID; None removes the entry.
        settings: values by name; None removes the setting.
    """

    cameras: dict[str, Saved] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)
    rows: list[Row] = field(default_factory=list)
    leaving: set[str] = field(default_factory=set)
    retained: dict[str, str | None] = field(default_factory=dict)
    notices: dict[Notice, Row | None] = field(default_factory=dict)
    settings: dict[str, str | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(getattr(self, part.name) for part in fields(self))

    def followed_by(self, later: Changes) -> Changes:
        """Return these changes and later ones as one; where both change the same thing, the later change applies."""
        kept = {name: saved for name, saved in self.cameras.items() if name not in later.forgotten}
        return Changes(
            cameras=kept | later.cameras,
            forgotten=(self.forgotten - later.cameras.keys()) | later.forgotten,
            rows=[*self.rows, *later.rows],
            leaving=self.leaving | later.leaving,
            retained=self.retained | later.retained,
            notices=self.notices | later.notices,
            settings=self.settings | later.settings,
        )


def checked(row: Row) -> Row:
    """Return the row if every column has the right type and range, so that the event can be published.

    Raises:
        ValueError: a column does not.
    """
    for text in (row.kind, row.event_id):
        check_text(text)
    check_topic(row.camera)
    check_object(row.details)
    check_number(row.unix_ns)
    if check_number(row.seq) > LARGEST_SEQ:
        raise ValueError(f"number {row.seq}")
    return row


def check_text(value: object) -> str:
    """Return the value of a text column.

    Raises:
        ValueError: it is not text.
    """
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is not text")
    return value


def check_object(value: object) -> str:
    """Return the value of a column with a JSON object.

    Raises:
        ValueError: it is not one; SQLite's own checks do not find a bit that flipped in a text.
    """
    text = check_text(value)
    try:
        is_object = isinstance(json.loads(text), dict)
    except RecursionError:
        is_object = False
    if not is_object:
        raise ValueError(f"{text!r:.40} is not a JSON object")
    return text


def check_topic(value: object) -> str:
    """Return the value of a column with a topic, or a part of one.

    Raises:
        ValueError: no message can be published to it.
    """
    text = check_text(value)
    if not text or _NOT_IN_TOPICS.search(text):
        raise ValueError(f"{text!r:.40} is not a topic")
    return text


def check_entities(value: object) -> str:
    """Return the entities of a topic: a JSON object, or nothing.

    Raises:
        ValueError: it is neither.
    """
    return check_object(value) if value != "" else ""


def check_number(value: object) -> int:
    """Return the value of a number or time column.

    Raises:
        ValueError: it is not an integer, or negative.
    """
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r:.40} is not a number")
    return value
