"""Open, write and replace the files of the state folder. Each call may block, so the store uses its disk thread."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

from tridetr.controller.database import Database
from tridetr.controller.history import FOLDER_LOCK
from tridetr.controller.rescue import finish_replacement, replace_database
from tridetr.controller.stored_rows import Changes, Contents
from tridetr.disk_thread import DiskStalledError
from tridetr.errors import TridetrError
from tridetr.file_lock import FileLock, FileLockedError
from tridetr.paths import private_folder
from tridetr.sqlite_files import BUSY, FULL, LOCKED, code_of
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.controller")


class StoreError(TridetrError):
    """The state folder cannot be used at all."""


def lock_folder(state_dir: Path) -> FileLock:
    """Create the folder if necessary and lock it for this process (the kernel unlocks it when the process dies).

    Raises:
        StoreError: another controller uses it, or it cannot be used.
        OSError: it is read-only, which may pass.
    """
    try:
        private_folder(state_dir, "state_dir", may_be_read_only=True)
        return FileLock(state_dir / FOLDER_LOCK, f"process {os.getpid()}")
    except FileLockedError as error:
        raise StoreError(
            f"another controller already uses {state_dir} ({error.holder}): stop it, or set a different `instance` "
            "for this one"
        ) from None
    except OSError as error:
        if error.errno == errno.EROFS:  # decisions continue in memory, as with a full disk
            raise
        raise StoreError(f"state_dir {state_dir} cannot be used: {error}") from None


def prepare_file(path: Path) -> bool:
    """Complete an interrupted replacement of the database; return whether the file has lost its contents.

    Raises:
        ForeignFolderError: the folder was replaced by another user's.
        OSError: the folder cannot be written.
    """
    private_folder(path.parent, "state_dir", may_be_read_only=True)
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
        database.write(changes)
    return True


def rebuild_database(path: Path, contents: Contents) -> tuple[Path | None, Database]:
    """Replace a broken database with a new one; return the broken one's new path, and the new one."""
    return replace_database(path, contents), Database(path)


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
    if code == FULL or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return "full", "free some space"
    if code in (BUSY, LOCKED):
        return "other", "another program has locked the file (a backup?); retrying"
    return "other", "check the folder and its permissions"
