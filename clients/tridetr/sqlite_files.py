"""Helpers for SQLite databases: repair of file modes, transactions, and codes of errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tridetr.files import give_access_back

# sqlite3.h
PERM, BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR = 3, 5, 6, 7, 8, 9, 10
FULL, CANTOPEN, PROTOCOL = 13, 14, 15
# A retry may succeed later
PASSING = {PERM, BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL}
_MESSAGES = {
    "database is locked": BUSY,
    "database table is locked": LOCKED,
    "out of memory": NOMEM,
    "attempt to write a readonly": READONLY,
    "disk I/O error": IOERR,
    "database or disk is full": FULL,
    "unable to open": CANTOPEN,
}


def code_of(error: BaseException) -> int | None:
    """Return SQLite's primary result code of an error; None if the error is not SQLite's, or unknown in Python 3.10.

    Do not search the whole message: it may contain what is stored, such as a camera's name.
    """
    code: int | None = getattr(error, "sqlite_errorcode", None)  # from Python 3.11 on
    if code is not None:
        return code & 0xFF
    if not isinstance(error, sqlite3.Error):
        return None
    return next((code for text, code in _MESSAGES.items() if str(error).startswith(text)), None)


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
