"""Helpers for SQLite databases: repair of file modes, transactions, and codes of errors."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tridetr.files import give_access_back
from tridetr.write_check import FULL_ERRORS

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
    "locking protocol": PROTOCOL,
}
_ROOM = 65536  # bytes: shared memory of 32 KiB, and the start of a write-ahead log
_AMPLE = 2**20  # free bytes that certainly have room for them


class DiskFullError(OSError):
    """SQLite would fail, or has failed, because the disk is full, which it does not always say."""


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


def is_in_use(error: BaseException) -> bool:
    """Return whether other programs keep a database from being opened or written: a short wait can solve that."""
    return code_of(error) in (BUSY, LOCKED, PROTOCOL)


def is_disk_full(folder: Path) -> bool:
    """Return whether a folder has no room for the shared memory of a database.

    SQLite reports that as an I/O error or a file that cannot be opened, or ends the process with SIGBUS: it allocates
    one block of each page (of four on a small ext4) and writes to the others through mapped memory, for which Btrfs
    needs new blocks each time. What is said to be free need not be for this user, so if it is little, room is asked
    for; also where files are not counted, as in Btrfs, which leaves out quotas.
    """
    try:
        status = os.statvfs(folder)
        if status.f_favail > 0 and status.f_bavail * status.f_frsize >= _AMPLE:
            return False
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, _ROOM)
    except OSError as error:
        return error.errno in FULL_ERRORS
    return False


def check_room(folder: Path) -> None:
    """Check that a database can be opened and written; see `is_disk_full`.

    Raises:
        DiskFullError: it cannot.
    """
    if is_disk_full(folder):
        raise DiskFullError("database or disk is full")  # as SQLite says it


def open_to_read(path: Path, wait_s: float = 0.0) -> sqlite3.Connection:
    """Open a database to read it, without changing it, also on a full disk.

    To read the write-ahead log, SQLite needs shared memory: a file next to the database. Without space for it, SQLite
    can use memory of the process if nothing is locked, so no other program may write to the database meanwhile.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    address = f"{path.as_uri()}?mode=ro"
    if not is_disk_full(path.parent):
        try:
            return _connected(address, wait_s)
        except sqlite3.Error as error:
            if code_of(error) not in PASSING or is_in_use(error):
                raise
    log = path.with_name(f"{path.name}-wal")
    if not (log.is_file() and log.stat().st_size):
        return open_main_file(path)
    return _connected(f"{address}&vfs=unix-none", wait_s, "PRAGMA locking_mode=EXCLUSIVE")


def open_beside_writer(path: Path, wait_s: float) -> sqlite3.Connection:
    """Open a database to read it while another process may write to it, also on a full disk.

    A reader, too, writes to the shared memory (see `is_disk_full`), unless it is told not to.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    address = f"{path.as_uri()}?mode=ro"
    if path.with_name(f"{path.name}-shm").is_file() and is_disk_full(path.parent):
        address += "&readonly_shm=1"
    return sqlite3.connect(address, uri=True, timeout=wait_s)


def open_main_file(path: Path, wait_s: float = 0.0) -> sqlite3.Connection:
    """Open a database to read it, without changing it and without its write-ahead log."""
    return _connected(f"{path.as_uri()}?mode=ro&immutable=1", wait_s)


def _connected(address: str, wait_s: float, first: str = "") -> sqlite3.Connection:
    connection = sqlite3.connect(address, uri=True, timeout=wait_s)
    try:
        connection.execute(first)
        connection.execute("PRAGMA user_version").fetchall()  # the first access
    except BaseException:
        connection.close()
        raise
    return connection


def give_database_back(path: Path) -> None:
    """Restore the owner's access to a database, its write-ahead log and its shared memory; see ``give_access_back``."""
    for suffix in ("", "-wal", "-shm"):
        give_access_back(path.with_name(path.name + suffix))


@contextmanager
def transaction(connection: sqlite3.Connection, folder: Path) -> Iterator[sqlite3.Connection]:
    """Commit everything that is executed in the ``with`` block, or nothing if it raises.

    Args:
        connection: the database.
        folder: where it is.

    Raises:
        DiskFullError: the disk is full.
        sqlite3.Error: the database is locked, or the changes cannot be written.
    """
    check_room(folder)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # on a full disk, SQLite has rolled back already
            connection.execute("ROLLBACK")
        raise
