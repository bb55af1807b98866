"""What the store keeps: its rows, and the checks that what was read is one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

LARGEST_SEQ = 2**53  # exact in JavaScript too


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row to come; the store gives it its number."""

    unix_ns: int
    kind: str
    details: str
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One event or note.

    Attributes:
        seq: its number.
        unix_ns: when it was decided.
        camera: name.
        kind: what happened.
        details: JSON text.
        event_id: of an event for MQTT; empty = for the history only.
        targets: names of the notification targets that are to get it.
    """

    seq: int
    unix_ns: int
    camera: str
    kind: str
    details: str
    event_id: str = ""
    targets: tuple[str, ...] = ()


Notice: TypeAlias = tuple[str, str]  # target, event id


@dataclass(frozen=True, slots=True)
class Saved:
    """A camera's saved record (JSON text) and when it was saved."""

    record: str
    updated_unix_ns: int


@dataclass(slots=True)
class Contents:
    """All that a database holds.

    Attributes:
        cameras: saved records by camera.
        outbox: events that wait for the broker, oldest first.
        history: past events and notes, oldest first; filled by ``rescue`` only.
        retained: topics that hold a retained message of this node, with the entities that it declares (JSON).
        last_seq: the greatest number ever given.
        notices: events that a target of notifications has not got yet, oldest first.
        settings: what was set by hand, by name.
    """

    cameras: dict[str, Saved] = field(default_factory=dict)
    outbox: list[Row] = field(default_factory=list)
    history: list[Row] = field(default_factory=list)
    retained: dict[str, str] = field(default_factory=dict)
    last_seq: int = 0
    notices: dict[Notice, Row] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


def checked(row: Row) -> Row:
    """Return an event's row if every column has its type.

    Raises:
        ValueError: one has not.
    """
    for text in (row.camera, row.kind, row.details, row.event_id):
        check_text(text)
    check_number(row.unix_ns)
    if check_number(row.seq) > LARGEST_SEQ:
        raise ValueError(f"number {row.seq}")
    return row


def check_text(value: object) -> str:
    """Return the value of a text column."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is not text")
    return value


def check_number(value: object) -> int:
    """Return the value of a column that counts or names a time."""
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r:.40} is not a number")
    return value
