"""Open the recorder's SQLite database: its layout, and what happens to one that is broken or too new."""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tridetr.errors import TridetrError
from tridetr.sqlite_files import give_database_back

logger = logging.getLogger("tridetr.recorder")

DATABASE = "evidence.db"
FOLDER_LOCK = "recorder.lock"
FILES = "files"
PART = ".part"
BROKEN = "broken-"  # folders of unreadable databases; the time (Unix, ns) follows
VISIT_ID = re.compile(r"[A-Za-z0-9-]{1,36}")  # used in file names
# Files of the recorder: the visit's UUID, the time at which the file was begun (Unix, ns), the kind
_OWN = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-[0-9a-f]+\.(jpg|crop\.jpg|mp4)(\.part)?"
)
_SIDES = ("", "-wal", "-shm", "-journal")
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
        aside = folder / f"{BROKEN}{time.time_ns()}"
        _move_aside(folder, aside)
        logger.error(
            "%s cannot be read (%s): moved to %s with its pictures and clips. Save what you need: the folder is "
            "removed after evidence.keep_days, or after a day if such folders take more than evidence.max_mib",
            path,
            error,
            aside,
        )
        return _prepared(path)


def own_files(folder: Path) -> list[Path]:
    """Return the recorder's files in a folder ``FILES``; empty if that is missing or a link.

    All others, and links, belong to the user or to other programs, and must not be removed or moved.
    """
    if folder.is_symlink() or not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [
            Path(entry)
            for entry in entries
            if _OWN.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
        ]


def own_databases(folder: Path) -> list[Path]:
    """Return the database in a folder and the files that SQLite creates next to it, as far as they exist."""
    found = (folder / f"{DATABASE}{side}" for side in _SIDES)
    return [file for file in found if file.is_file() and not file.is_symlink()]


def refuse_other_files(folder: Path) -> None:
    """Refuse a folder whose ``FILES`` is a link, or belongs to the user or to another program.

    Args:
        folder: ``config.evidence_dir``; may be missing.

    Raises:
        OSError: It cannot be read.
        TridetrError: The recorder must not use it.
    """
    files, database = folder / FILES, folder / DATABASE
    remedy = "Remedy: set evidence.path to an empty folder or a new one"
    if files.is_symlink():
        raise TridetrError(
            f"evidence.path {folder} cannot be used: {files} is a link, and the recorder must not remove files "
            f"elsewhere. {remedy}"
        )
    if (database.is_file() and database.stat().st_size) or not files.exists():
        return
    if (names := os.listdir(files)) and not own_files(files):  # noqa: PTH208
        raise TridetrError(
            f"evidence.path {folder} cannot be used: {files} holds files of another program, such as {min(names)}. "
            f"{remedy}"
        )


def _move_aside(folder: Path, aside: Path) -> None:
    aside.mkdir(mode=0o700)
    for found in own_databases(folder):
        found.rename(aside / found.name)
    files, moved = folder / FILES, aside / FILES
    own = own_files(files)
    if len(own) == len(os.listdir(files)):  # noqa: PTH208
        files.rename(moved)
        files.mkdir(mode=0o700)
        return
    moved.mkdir(mode=0o700)
    for file in own:
        file.rename(moved / file.name)


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
