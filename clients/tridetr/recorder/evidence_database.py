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
from tridetr.sqlite_files import give_database_back

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
