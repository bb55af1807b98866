"""Helpers for SQLite databases: repair of file modes, and transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tridetr.files import give_access_back


def give_database_back(path: Path) -> None:
    """Restore the owner's access to a database, its write-ahead log and its shared memory; see ``give_access_back``."""
    for suffix in ("", "-wal", "-shm"):
        give_access_back(path.with_name(path.name + suffix))


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Commit everything that is executed in the ``with`` block, or nothing if it raises.

    Raises:
        sqlite3.Error: the database is locked, or the changes cannot be written.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # on a full disk, SQLite has rolled back already
            connection.execute("ROLLBACK")
        raise
