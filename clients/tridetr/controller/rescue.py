"""Recover the readable contents of a broken database and replace it, safely against a kill at any point."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tridetr.controller.database import Database
from tridetr.controller.stored_rows import (
    LARGEST_SEQ,
    Changes,
    Contents,
    Row,
    Saved,
    check_entities,
    check_number,
    check_object,
    check_text,
    check_topic,
    checked,
)
from tridetr.files import sync_folder
from tridetr.sqlite_files import open_main_file, open_to_read

_KEPT = 3  # broken databases
# ValueError: an error whose text quotes damaged SQL that is not UTF-8
_UNREADABLE = (sqlite3.Error, ValueError)


def rescue(path: Path) -> Contents:
    """Return the readable contents of a database that is broken or cannot be opened, without changing the file.

    An outbox event with a damaged column is taken from the history instead, which holds the same texts. The same goes
    for the events between the readable ends of a damaged outbox.
    """
    found = Contents(is_whole=False)
    if not path.is_file():  # opening a FIFO would block
        return found
    for opened in (open_to_read, open_main_file):
        with suppress(*_UNREADABLE):
            with closing(opened(path, 1.0)) as connection:
                connection.text_factory = bytes
                connection.execute("SELECT * FROM sqlite_master").fetchall()
                _read(connection, found)
            break
    return found


def _read(connection: sqlite3.Connection, found: Contents) -> None:
    for name, record, updated in _scan(connection, "name, record, updated_unix_ns", "camera"):
        with suppress(ValueError):
            found.cameras[check_topic(_text(name))] = Saved(_text(record), check_number(updated))
    for topic, entities in _scan(connection, "topic, entities", "retained"):
        with suppress(ValueError):
            known = check_topic(_text(topic))
            found.retained[known] = ""  # without its entities, the topic can still be cleared
            found.retained[known] = check_entities(_text(entities))
    for name, value in _scan(connection, "name, value", "setting"):
        with suppress(ValueError):
            found.settings[_text(name)] = check_object(_text(value))
    history: dict[int, Row] = {}
    for seq, *others in _scan(connection, "seq, unix_ns, camera, kind, details", "history"):
        with suppress(ValueError, TypeError):
            row = _row(seq, *others, b"")
            history[row.seq] = row
    outbox: dict[int, Row] = {}
    misnumbered: list[Row] = []
    damaged: list[int] = []
    columns = "seq, unix_ns, camera, kind, details, event_id"
    for seq, *others in _scan(connection, columns, "outbox", damaged):
        try:
            event = _event(0, *others)
        except (ValueError, TypeError):
            damaged.append(seq)
            continue
        if isinstance(seq, int) and 0 < seq <= LARGEST_SEQ:
            outbox[seq] = replace(event, seq=seq)
        else:
            misnumbered.append(event)
    if not outbox and not damaged:  # a column may be missing
        damaged += [row[0] for row in _scan(connection, "seq", "outbox")]
    for seq in damaged:
        noted = history.get(seq)
        if seq not in outbox and noted and (event_id := _event_id(noted, connection)):
            outbox[seq] = replace(noted, event_id=event_id)
    last_seq = max([0, *outbox, *history])
    for event in misnumbered:
        last_seq += 1
        outbox[last_seq] = replace(event, seq=last_seq)
    events = {outbox[seq].event_id: outbox[seq] for seq in sorted(outbox, reverse=True)}
    found.outbox = sorted(events.values(), key=lambda row: row.seq)
    found.history = [history[seq] for seq in sorted(history)]
    found.last_seq = last_seq
    _read_notices(connection, found)


def _read_notices(connection: sqlite3.Connection, found: Contents) -> None:
    notices: dict[tuple[str, str], Row] = {}
    columns = "target, seq, unix_ns, camera, kind, details, event_id"
    for target, *others in _scan(connection, columns, "notice"):
        with suppress(ValueError, TypeError):
            row = _event(*others)
            notices[_text(target), row.event_id] = row
    found.notices = dict(sorted(notices.items(), key=lambda item: (item[1].seq, item[1].unix_ns)))


def _row(*columns: Any) -> Row:
    seq, unix_ns, camera, kind, details, event_id = columns
    return checked(Row(seq, unix_ns, _text(camera), _text(kind), _text(details), _text(event_id)))


def _event(*columns: Any) -> Row:
    row = _row(*columns)
    if not row.event_id:
        raise ValueError("an event has no ID")
    return row


def _event_id(noted: Row, connection: sqlite3.Connection) -> str:
    """Return the ID of the event in a history row; empty if it cannot be found.

    Args:
        noted: history row with the number of an unreadable outbox row.
        connection: to the broken database, whose outbox may still hold the ID.
    """
    event_id = json.loads(noted.details).get("event_id")
    if not isinstance(event_id, str):
        with suppress(sqlite3.Error, ValueError, TypeError):
            query = "SELECT event_id FROM outbox WHERE seq = ?"
            event_id = _text(connection.execute(query, (noted.seq,)).fetchone()[0])
    return event_id if isinstance(event_id, str) else ""


def _scan(
    connection: sqlite3.Connection, columns: str, table: str, between: list[int] | None = None
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table from its start and, if reading fails midway, from its end as well.

    Args:
        connection: to the broken database.
        columns: comma-separated columns to read; the first one is the key.
        table: name of the table.
        between: receives the key numbers between the two readable ends.
    """
    key = columns.split(",", 1)[0]
    ends: list[int] = []
    for order in ("ASC", "DESC"):
        last: Any = None
        try:
            query = f"SELECT {columns} FROM {table} ORDER BY {key} {order}"  # noqa: S608
            for row in connection.execute(query):
                last = row[0]
                yield row
            return
        except (*_UNREADABLE, OverflowError):
            if isinstance(last, int):
                ends.append(last)
    if between is not None and len(ends) == 2 and 0 < ends[1] - ends[0] <= LARGEST_SEQ:
        between += range(ends[0] + 1, min(ends[1], ends[0] + 100_000))


def _text(value: object) -> str:
    return check_text(value.decode() if isinstance(value, bytes) else value)


def replace_database(path: Path, contents: Contents) -> Path | None:
    """Move a broken database aside and write ``contents`` to a new one in its place.

    If the process is killed at any point, either nothing has changed or the next ``finish_replacement`` completes the
    replacement.

    Returns:
        New path of the broken database.
    """
    begun, ready = _names(path)
    for side in ("", "-wal", "-shm"):
        begun.with_name(begun.name + side).unlink(missing_ok=True)
    database = Database(begun)
    try:
        rows = {row.seq: row for row in [*contents.history, *contents.outbox]}
        database.write(
            Changes(
                cameras=contents.cameras,
                rows=[rows[seq] for seq in sorted(rows)],
                retained=dict(contents.retained),
                notices=dict(contents.notices),
                settings=dict(contents.settings),
            )
        )
    finally:
        database.close()
    begun.replace(ready)
    return finish_replacement(path)


def finish_replacement(path: Path) -> Path | None:
    """Replace the broken database with a complete new one, if there is one; return the broken one's new path.

    Only the newest broken databases are kept.
    """
    ready = _names(path)[1]
    if not ready.exists():
        return None
    aside = path.with_name(f"{path.name}.corrupt-{time.time_ns()}")
    # Move the write-ahead log first: it must never be next to the new file.
    for side in ("-wal", ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + side).replace(aside.with_name(aside.name + side))
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    ready.replace(path)
    earlier = sorted(
        file
        for file in path.parent.glob(f"{path.name}.corrupt-*")
        if file.name.rpartition("-")[2].isdecimal()
    )
    for file in earlier[:-_KEPT]:
        for side in ("-wal", ""):
            file.with_name(file.name + side).unlink(missing_ok=True)
    sync_folder(path.parent)
    return aside


def _names(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.begun"), path.with_name(f"{path.name}.new")
