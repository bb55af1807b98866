"""Open, migrate, read and write the controller's SQLite file. Retries are the store's job."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from tridetr.controller.history import HISTORY_LIMIT
from tridetr.controller.stored_rows import (
    LARGEST_SEQ,
    Changes,
    Contents,
    Notice,
    Row,
    Saved,
    check_entities,
    check_number,
    check_object,
    check_text,
    check_topic,
    checked,
)
from tridetr.errors import TridetrError
from tridetr.sqlite_files import PASSING, code_of, give_database_back, open_to_read, transaction

# SQL that migrates a database from the previous version to this one; an empty file has version 0.
_LAYOUTS = {
    1: """
CREATE TABLE camera (
  name TEXT PRIMARY KEY, record TEXT NOT NULL, updated_unix_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE outbox (
  seq INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, unix_ns INTEGER NOT NULL,
  camera TEXT NOT NULL, kind TEXT NOT NULL, details TEXT NOT NULL);
CREATE TABLE history (
  seq INTEGER PRIMARY KEY, unix_ns INTEGER NOT NULL,
  camera TEXT NOT NULL, kind TEXT NOT NULL, details TEXT NOT NULL);
""",
    2: """
CREATE TABLE retained (topic TEXT PRIMARY KEY, entities TEXT NOT NULL) WITHOUT ROWID;
""",
    3: """
CREATE TABLE notice (
  target TEXT NOT NULL, event_id TEXT NOT NULL, seq INTEGER NOT NULL, unix_ns INTEGER NOT NULL,
  camera TEXT NOT NULL, kind TEXT NOT NULL, details TEXT NOT NULL, PRIMARY KEY (target, event_id)) WITHOUT ROWID;
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
""",
}
VERSION = max(_LAYOUTS)
_LARGEST_VERSION = 1000  # a greater one means a damaged header, not a later tridetr
START_WAIT_S = 5.0  # lock timeout at startup, for example while a backup runs
WAIT_S = 0.05  # lock timeout later: decisions must not wait


class CorruptDatabaseError(Exception):
    """The file is not a usable tridetr database, and retrying does not help."""


class NewerDatabaseError(TridetrError):
    """The file was written by a later version of tridetr."""


class Database:
    """One open database.

    Raises:
        sqlite3.Error, OSError: it cannot be opened now (locked, disk full, no permission).
        CorruptDatabaseError: it can never be opened.
        NewerDatabaseError: it has a layout that this version does not know.
    """

    def __init__(self, path: Path, wait_s: float = WAIT_S) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        self.folder = path.parent
        give_database_back(path)
        is_new = not path.exists()
        self._identity = _open_once(path)
        self._connection = sqlite3.connect(path, timeout=wait_s, isolation_level=None)
        try:
            with _classified():
                self._prepare()
        except BaseException:
            self._connection.close()
            if is_new:
                _remove_if_empty(path)
            raise

    def _prepare(self) -> None:
        connection = self._connection
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        _refuse_newer(self._path, version)
        if not 0 <= version <= VERSION:
            raise CorruptDatabaseError(f"layout version {version}")
        if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise CorruptDatabaseError("tables without a layout version")
        if (found := connection.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise CorruptDatabaseError(str(found).replace("\n", " "))
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=200")
        for following in range(version + 1, VERSION + 1):
            connection.executescript(
                f"BEGIN IMMEDIATE; {_LAYOUTS[following]} PRAGMA user_version={following}; COMMIT;"
            )
        connection.execute(f"PRAGMA busy_timeout={round(WAIT_S * 1000)}")

    def load(self) -> Contents:
        """Return all contents except the history.

        Raises:
            CorruptDatabaseError: part of the file cannot be read.
        """
        with _classified():
            execute = self._connection.execute
            cameras = execute("SELECT name, record, updated_unix_ns FROM camera").fetchall()
            outbox = execute(
                "SELECT seq, unix_ns, camera, kind, details, event_id FROM outbox ORDER BY seq"
            ).fetchall()
            retained = execute("SELECT topic, entities FROM retained").fetchall()
            notices = execute(
                "SELECT target, seq, unix_ns, camera, kind, details, event_id FROM notice ORDER BY seq, unix_ns"
            ).fetchall()
            settings = execute("SELECT name, value FROM setting").fetchall()
            history = execute("SELECT seq, unix_ns, camera, kind, details FROM history")
            for row in history:  # checked here because the gateway reads the table directly
                checked(Row(*row))
            last_seq = execute(
                "SELECT max(coalesce((SELECT max(seq) FROM history), 0), "
                "coalesce((SELECT max(seq) FROM outbox), 0))"
            ).fetchone()[0]
            found = Contents(
                {check_topic(name): Saved(check_text(text), at) for name, text, at in cameras},
                [checked(Row(*row)) for row in outbox],
                [],
                {check_topic(topic): check_entities(text) for topic, text in retained},
                last_seq,
                {(check_text(name), row[-1]): checked(Row(*row)) for name, *row in notices},
                {check_text(name): check_object(value) for name, value in settings},
            )
            if not 0 <= last_seq <= LARGEST_SEQ:
                raise ValueError(f"number {last_seq}")
            for saved in found.cameras.values():
                check_number(saved.updated_unix_ns)
        return found

    @property
    def is_current(self) -> bool:
        """Whether the path still refers to the open file (it was not removed or replaced)."""
        try:
            return _identity(self._path.stat()) == self._identity
        except OSError:
            return False

    def write(self, changes: Changes) -> None:
        """Write all changes in one transaction."""
        connection = self._connection
        # Events and settings must survive a power cut; the rest only needs to survive a crash of the process.
        durable = bool(changes.settings) or any(row.event_id for row in changes.rows)
        with _classified():
            connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            with transaction(connection, self.folder):
                self._save_cameras(changes.cameras, changes.forgotten)
                self._move_rows(changes.rows, changes.leaving)
                self._replace("retained", changes.retained)
                self._replace("setting", changes.settings)
                self._move_notices(changes.notices)
            if durable:
                # Move events into the main file, so that losing the write-ahead log later loses none of them.
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _save_cameras(self, cameras: Mapping[str, Saved], forgotten: Collection[str]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO camera VALUES (?, ?, ?)",
            [(name, saved.record, saved.updated_unix_ns) for name, saved in cameras.items()],
        )
        self._connection.executemany(
            "DELETE FROM camera WHERE name = ?", [(name,) for name in forgotten]
        )

    def _move_rows(self, rows: list[Row], leaving: Collection[str]) -> None:
        connection = self._connection
        connection.executemany(
            "INSERT INTO outbox (event_id, seq, unix_ns, camera, kind, details) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (row.event_id, row.seq, row.unix_ns, row.camera, row.kind, row.details)
                for row in rows
                if row.event_id
            ],
        )
        connection.executemany(
            "DELETE FROM outbox WHERE event_id = ?", [(name,) for name in leaving]
        )
        connection.executemany(
            "INSERT INTO history VALUES (?, ?, ?, ?, ?)",
            [(row.seq, row.unix_ns, row.camera, row.kind, row.details) for row in rows],
        )
        if rows:
            oldest = rows[-1].seq - HISTORY_LIMIT
            connection.execute("DELETE FROM history WHERE seq <= ?", (oldest,))

    def _move_notices(self, notices: Mapping[Notice, Row | None]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO notice VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (*notice, row.seq, row.unix_ns, row.camera, row.kind, row.details)
                for notice, row in notices.items()
                if row is not None
            ],
        )
        self._connection.executemany(
            "DELETE FROM notice WHERE target = ? AND event_id = ?",
            [notice for notice, row in notices.items() if row is None],
        )

    def _replace(self, table: str, texts: Mapping[str, str | None]) -> None:
        """Update a two-column table from texts by key; None removes the key."""
        key = {"retained": "topic", "setting": "name"}[table]
        self._connection.executemany(
            f"INSERT OR REPLACE INTO {table} VALUES (?, ?)",  # noqa: S608
            [(name, text) for name, text in texts.items() if text is not None],
        )
        self._connection.executemany(
            f"DELETE FROM {table} WHERE {key} = ?",  # noqa: S608
            [(name,) for name, text in texts.items() if text is None],
        )

    def close(self) -> None:
        """Close the file and merge the write-ahead log into it."""
        self._connection.close()


def refuse_newer(path: Path) -> None:
    """Check that a database that is not opened is not from a later version.

    Any other fault of the file is ignored here: the controller handles it.

    Raises:
        NewerDatabaseError: it was written by a later version of tridetr.
    """
    with suppress(sqlite3.Error, ValueError):
        if path.is_file():
            with closing(open_to_read(path)) as found:
                _refuse_newer(path, found.execute("PRAGMA user_version").fetchone()[0])


def _refuse_newer(path: Path, version: int) -> None:
    if VERSION < version <= _LARGEST_VERSION:
        raise NewerDatabaseError(
            f"{path} was written by a later version of tridetr (layout {version}, this version knows {VERSION}): "
            "install that version again, or move the file away to start without its events"
        )


def is_passing(error: BaseException) -> bool:
    """Return whether a retry may succeed later: file locked, disk full, no permission or an I/O error."""
    return isinstance(error, OSError) or code_of(error) in PASSING


@contextmanager
def _classified() -> Iterator[None]:
    """Turn errors that a retry cannot fix into ``CorruptDatabaseError``, except ``IntegrityError`` (duplicate key)."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
        if is_passing(error):
            raise
        raise CorruptDatabaseError(str(error)) from None


def _open_once(path: Path) -> tuple[int, int]:
    """Create the file with mode 0600 if it does not exist; return its device and inode numbers."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except IsADirectoryError:
        raise CorruptDatabaseError("a folder, not a file") from None
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise CorruptDatabaseError("not a regular file")
    return _identity(status)


def _remove_if_empty(path: Path) -> None:
    """Remove a file that has just been created in vain: an empty one counts as a database that lost its contents."""
    with suppress(OSError):
        if path.stat().st_size == 0:
            path.resolve().unlink()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
