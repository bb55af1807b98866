"""Open, write and replace the files of the state folder. Each call may block, so the store uses its disk thread."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tridetr.controller.database import Database
from tridetr.controller.history import FOLDER_LOCK
from tridetr.controller.rescue import finish_replacement, replace_database
from tridetr.controller.stored_rows import Changes, Contents
from tridetr.disk_thread import DiskStalledError
from tridetr.errors import TridetrError
from tridetr.file_lock import FileLock, FileLockedError
from tridetr.paths import state_folder
from tridetr.sqlite_files import (
    CANTOPEN,
    FULL,
    IOERR,
    DiskFullError,
    check_room,
    code_of,
    is_disk_full,
    is_in_use,
)
from tridetr.telemetry import metrics
from tridetr.write_check import DEVICE_ERRORS, FULL_ERRORS, disk_remedy

logger = logging.getLogger("tridetr.controller")


class StoreError(TridetrError):
    """The state folder cannot be used at all."""


def lock_folder(state_dir: Path) -> FileLock:
    """Create the folder if necessary and lock it for this process (the kernel unlocks it when the process dies).

    Raises:
        StoreError: another controller uses it, or it cannot be used.
        UncheckedFolderError: its disk fails, so it may be another user's.
        OSError: it is read-only, or its disk is full or fails, which may pass.
    """
    try:
        state_folder(state_dir)
        return FileLock(state_dir / FOLDER_LOCK, f"process {os.getpid()}")
    except FileLockedError as error:
        raise StoreError(
            f"another controller already uses {state_dir} ({error.holder}): stop it, or set a different `instance` "
            "for this one"
        ) from None
    except OSError as error:
        # Decisions continue in memory
        if error.errno in (errno.EROFS, *FULL_ERRORS, *DEVICE_ERRORS):
            raise
        raise StoreError(f"state_dir {state_dir} cannot be used: {error}") from None


def prepare_file(path: Path) -> bool:
    """Complete an interrupted replacement of the database; return whether the file has lost its contents.

    Raises:
        ForeignFolderError: the folder was replaced by another user's.
        UncheckedFolderError: its disk fails, so it may have been.
        OSError: the folder cannot be written.
    """
    state_folder(path.parent)
    if aside := finish_replacement(path):
        logger.error("the broken state database was moved to %s", aside)
    is_emptied = path.is_file() and path.stat().st_size == 0
    if is_emptied:
        metrics.STORE_ERRORS.labels("corrupt").inc()
        logger.error("%s is empty: its contents are lost, starting a new database", path)
    return is_emptied


def open_database(path: Path, wait_s: float) -> tuple[Database, Contents]:
    """Open the database and load its contents.

    Raises:
        sqlite3.Error, OSError, CorruptDatabaseError, NewerDatabaseError: see ``Database``.
    """
    check_room(path.parent)
    with _naming_full_disk(path.parent):
        database = Database(path, wait_s)
        try:
            return database, database.load()
        except BaseException:
            database.close()
            raise


def write_database(database: Database, changes: Changes) -> bool:
    """Write changes; return False, without writing, if the file was removed or replaced while in use."""
    if not database.is_current:
        return False
    if changes:
        with _naming_full_disk(database.folder):
            database.write(changes)
    return True


def rebuild_database(path: Path, contents: Contents) -> tuple[Path | None, Database]:
    """Replace a broken database with a new one; return the broken one's new path, and the new one."""
    with _naming_full_disk(path.parent):
        return replace_database(path, contents), Database(path)


@contextmanager
def _naming_full_disk(folder: Path) -> Iterator[None]:
    """Name the cause of an error that SQLite reports when the disk has no space for its shared memory.

    Raises:
        DiskFullError: instead of that error.
    """
    try:
        yield
    except sqlite3.Error as error:
        if code_of(error) in (IOERR, CANTOPEN) and is_disk_full(folder):
            raise DiskFullError(f"{error}, the disk is full") from error
        raise


def close_files(database: Database | None, lock: FileLock | None = None) -> None:
    """Close an open database and release the lock of its folder."""
    if database is not None:
        with suppress(sqlite3.Error):
            database.close()
    if lock is not None:
        lock.close()


def disk_space(folder: Path) -> tuple[int, int] | None:
    """Return the free and the total bytes of a folder's file system; None if they cannot be read.

    The folder need not exist yet.
    """
    try:
        usage = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists()))
    except OSError:
        return None
    return usage.free, usage.total


def kind_and_remedy(error: Exception) -> tuple[str, str]:
    """Return the kind of a fault (a label of ``tridetr_store_errors_total``), and its remedy."""
    if isinstance(error, DiskStalledError):
        return "stalled", "check the memory card, disk or network share; retrying"
    code = code_of(error)
    number = getattr(error, "errno", None)
    if code == FULL or number in FULL_ERRORS or isinstance(error, DiskFullError):
        return "full", "free some space"
    if is_in_use(error):
        return "other", "another program has locked the file (a backup?); retrying"
    if code == IOERR or number in DEVICE_ERRORS:
        return "other", "check the disk, its quotas and the kernel's log (`dmesg`)"
    if number == errno.EROFS:
        return "other", disk_remedy(error)
    return "other", "check the folder and its permissions"
