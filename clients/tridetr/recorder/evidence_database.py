"""Open the recorder's SQLite database: its layout, and what happens to one that is broken or too new."""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

from tridetr.errors import TridetrError
from tridetr.recorder.evidence_files import DATABASE, FILES, PART, move_aside, own_files
from tridetr.sqlite_files import check_room, give_database_back

logger = logging.getLogger("tridetr.recorder")

VISIT_ID = re.compile(r"[A-Za-z0-9-]{1,36}")  # used in file names
# Values of visit.is_open; a visit that has ended may still get a clip.
COMPLETE, OPEN, ENDED = 0, 1, 2
_VERSION = 1
_LAYOUT = """
CREATE TABLE visit (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, visit_id TEXT NOT NULL UNIQUE, camera TEXT NOT NULL, class TEXT NOT NULL,
  started_unix_ns INTEGER NOT NULL, ended_unix_ns INTEGER NOT NULL, is_open INTEGER NOT NULL,
  score REAL NOT NULL DEFAULT 0, picture TEXT, crop TEXT, picture_facts TEXT NOT NULL DEFAULT '{}',
  clip TEXT, clip_facts TEXT NOT NULL DEFAULT '{}', bytes INTEGER NOT NULL);
CREATE INDEX visit_started ON visit (started_unix_ns);
CREATE TABLE blind (
  seq INTEGER PRIMARY KEY, camera TEXT NOT NULL, started_unix_ns INTEGER NOT NULL, ended_unix_ns INTEGER NOT NULL);
CREATE TABLE watch (seq INTEGER PRIMARY KEY, started_unix_ns INTEGER NOT NULL, ended_unix_ns INTEGER NOT NULL);
"""


def open_database(folder: Path) -> sqlite3.Connection:
    """Open the database in a folder; move an unreadable one aside, with its files, and create a new one.

    Args:
        folder: ``config.evidence_dir``; must contain the folder ``FILES``.

    Raises:
        OSError, sqlite3.Error: It cannot be opened now.
        TridetrError: It was written by a later version.
    """
    path = folder / DATABASE
    give_database_back(path)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    try:
        # An empty database with files is broken: as a new one, it would have all of them removed.
        if path.stat().st_size == 0 and any(
            file.suffix != PART for file in own_files(folder / FILES)
        ):
            raise sqlite3.DatabaseError("it is empty")
        return _prepared(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        aside = move_aside(folder)
        logger.error(
            "%s cannot be read (%s): moved to %s with its pictures and clips. Save what you need: the folder is "
            "removed after evidence.keep_days, or after a day if such folders take more than evidence.max_mib",
            path,
            error,
            aside,
        )
        return _prepared(path)


def as_text(data: bytes) -> str:
    """Return a text column, also a damaged one: one row must not hide the others."""
    return data.decode(errors="replace")


def facts_of(text: object) -> dict[str, Any]:
    """Return the facts in a column; empty if the column is damaged."""
    with suppress(ValueError, TypeError, RecursionError):
        if isinstance(found := json.loads(str(text)), dict):
            return found
    return {}


def find_expired(
    connection: sqlite3.Connection, least_unix_ns: int, room: int
) -> tuple[dict[str, str], int]:
    """Return the visits to remove, with the reason (``age``, ``size``), and the size of the others in bytes.

    Args:
        connection: To the database; may be read-only.
        least_unix_ns: Visits that ended before this time are too old.
        room: Size of all others in bytes; the first ones beyond it are removed. Open visits are kept.
    """
    expired = dict.fromkeys(
        (
            row[0]
            for row in connection.execute(
                "SELECT visit_id FROM visit WHERE NOT is_open AND ended_unix_ns < ?",
                (least_unix_ns,),
            )
        ),
        "age",
    )
    kept = "FROM visit WHERE (is_open OR ended_unix_ns >= ?)"
    query = f"SELECT coalesce(sum(bytes), 0) {kept}"
    size = int(connection.execute(query, (least_unix_ns,)).fetchone()[0])
    for visit_id, held in connection.execute(
        f"SELECT visit_id, bytes {kept} AND NOT is_open ORDER BY seq", (least_unix_ns,)
    ):
        if size <= room:
            break
        expired[visit_id] = "size"
        size -= held
    return expired, size


def files_of(connection: sqlite3.Connection, visit_id: str) -> list[str]:
    """Return the names of a visit's files."""
    row = connection.execute(
        "SELECT picture, crop, clip FROM visit WHERE visit_id = ?", (visit_id,)
    ).fetchone()
    return [name for name in row or () if name]


def write_row(
    connection: sqlite3.Connection, folder: Path, query: str, values: tuple[object, ...]
) -> sqlite3.Cursor:
    """Execute a statement that changes one row or a few, if there is room for it on the folder's disk.

    Raises:
        OSError, sqlite3.Error: It cannot be written.
    """
    check_room(folder)
    return connection.execute(query, values)


def watched_periods(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """Return the periods in which recorders ran (Unix, ns), newest first."""
    return connection.execute(
        "SELECT started_unix_ns, ended_unix_ns FROM watch ORDER BY ended_unix_ns DESC"
    ).fetchall()


def _prepared(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    connection.text_factory = as_text
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise TridetrError(
                f"{path} was written by a later version of tridetr: install that version again, or set "
                "evidence.path to another folder"
            )
        if version == 0:
            connection.executescript(
                f"BEGIN IMMEDIATE; {_LAYOUT} PRAGMA user_version={_VERSION}; COMMIT;"
            )
    except BaseException:
        connection.close()
        raise
    return connection
