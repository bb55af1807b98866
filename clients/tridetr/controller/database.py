"""The SQLite file under the store: opening, the schema, and one transaction. Knows nothing of retries."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tridetr.controller.history import HISTORY_LIMIT

VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS camera (
  name TEXT PRIMARY KEY, record TEXT NOT NULL, updated_unix_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
  seq INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, unix_ns INTEGER NOT NULL,
  camera TEXT NOT NULL, kind TEXT NOT NULL, details TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS history (
  seq INTEGER PRIMARY KEY, unix_ns INTEGER NOT NULL,
  camera TEXT NOT NULL, kind TEXT NOT NULL, details TEXT NOT NULL);
"""


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
    """

    seq: int
    unix_ns: int
    camera: str
    kind: str
    details: str
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class Saved:
    """A camera's saved record (JSON text) and when it was saved."""

    record: str
    updated_unix_ns: int


class CorruptDatabaseError(Exception):
    """The file is no usable database of ours."""


class Database:
    """One open database; every error of SQLite reaches the caller.

    Raises:
        sqlite3.Error: it cannot be opened now (a full disk, no permission).
        CorruptDatabaseError: it can never be opened.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._connection = sqlite3.connect(path, timeout=2.0, isolation_level=None)
        try:
            self._prepare()
        except BaseException as error:
            self._connection.close()
            if is_corrupt(error):
                raise CorruptDatabaseError(str(error)) from None
            raise

    def _prepare(self) -> None:
        connection = self._connection
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise CorruptDatabaseError(f"layout version {version}, expected {VERSION}")
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise CorruptDatabaseError("quick_check failed")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=200")
        connection.executescript(_SCHEMA)
        connection.execute(f"PRAGMA user_version={VERSION}")

    def cameras(self) -> dict[str, Saved]:
        """Return what was saved of each camera."""
        rows = self._connection.execute("SELECT name, record, updated_unix_ns FROM camera")
        return {name: Saved(record, updated) for name, record, updated in rows}

    def outbox(self) -> list[Row]:
        """Return the events that wait for the broker, oldest first."""
        rows = self._connection.execute(
            "SELECT seq, unix_ns, camera, kind, details, event_id FROM outbox ORDER BY seq"
        )
        return [Row(*row) for row in rows]

    def last_seq(self) -> int:
        """Return the greatest number ever given."""
        query = "SELECT max(coalesce((SELECT max(seq) FROM history), 0), coalesce((SELECT max(seq) FROM outbox), 0))"
        return int(self._connection.execute(query).fetchone()[0])

    def write(
        self,
        cameras: Mapping[str, Saved],
        rows: Iterable[Row],
        leaving: Collection[int],
        forgotten: Collection[str] = (),
    ) -> None:
        """Write all of it in one transaction, or nothing.

        Args:
            cameras: records to save.
            rows: new rows; those with an event id also go into the outbox.
            leaving: numbers that leave the outbox.
            forgotten: cameras to remove.
        """
        rows = list(rows)
        connection = self._connection
        # An event must survive a power cut too; the rest only the death of the process.
        durable = any(row.event_id for row in rows)
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(
                "INSERT OR REPLACE INTO camera VALUES (?, ?, ?)",
                [(name, saved.record, saved.updated_unix_ns) for name, saved in cameras.items()],
            )
            connection.executemany("DELETE FROM camera WHERE name = ?", [(n,) for n in forgotten])
            connection.executemany(
                "INSERT OR IGNORE INTO outbox (event_id, seq, unix_ns, camera, kind, details) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (row.event_id, row.seq, row.unix_ns, row.camera, row.kind, row.details)
                    for row in rows
                    if row.event_id
                ],
            )
            connection.executemany("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq in leaving])
            connection.executemany(
                "INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?, ?)",
                [(row.seq, row.unix_ns, row.camera, row.kind, row.details) for row in rows],
            )
            if rows:
                connection.execute(
                    "DELETE FROM history WHERE seq <= ?", (rows[-1].seq - HISTORY_LIMIT,)
                )
            connection.execute("COMMIT")
        except BaseException:
            # A full disk has rolled back already.
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file (and fold the write-ahead log into it)."""
        self._connection.close()


def is_corrupt(error: BaseException) -> bool:
    """Return whether an error of SQLite means that the file itself is broken."""
    return (
        isinstance(error, sqlite3.DatabaseError)
        and not isinstance(error, sqlite3.OperationalError)
        and any(word in str(error) for word in ("malformed", "not a database"))
    )


def move_aside(path: Path) -> Path:
    """Rename a broken database (with its log) so that a new one can be made; return the new name."""
    aside = path.with_name(f"{path.name}.corrupt-{time.time_ns()}")
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        side = path.with_name(path.name + suffix)
        if side.exists():
            side.replace(aside.with_name(aside.name + suffix))
    return aside
