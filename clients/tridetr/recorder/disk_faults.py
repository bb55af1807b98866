"""Faults of the disk of ``evidence.path``: which may pass, and what to do about them."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

from tridetr.sqlite_files import (
    BUSY,
    CANTOPEN,
    FULL,
    IOERR,
    LOCKED,
    PASSING,
    READONLY,
    DiskFullError,
    code_of,
    is_disk_full,
)
from tridetr.write_check import DEVICE_ERRORS, FULL_ERRORS, disk_remedy

_SPACE = 1 << 20  # free bytes, below which a disk counts as full


def may_pass(error: Exception) -> bool:
    """Return whether evidence can be saved later, without another configuration."""
    if isinstance(error, sqlite3.Error):
        return code_of(error) in PASSING
    number = getattr(error, "errno", None)
    return isinstance(error, DiskFullError) or number in (errno.EROFS, *FULL_ERRORS, *DEVICE_ERRORS)


def is_full(error: Exception, folder: Path) -> bool:
    """Return whether an error means that the disk of a folder is full, which SQLite does not always say."""
    code = code_of(error)
    if code in (IOERR, CANTOPEN):
        return is_disk_full(folder)
    is_named = code == FULL or getattr(error, "errno", None) in FULL_ERRORS
    return is_named or isinstance(error, DiskFullError)


def remedy(error: Exception, folder: Path) -> str:
    """Return what to do about evidence that cannot be written to a folder."""
    code, number = code_of(error), getattr(error, "errno", None)
    if code in (BUSY, LOCKED):
        return f"end the program that has locked the database in {folder} (a backup?)"
    with suppress(OSError):
        # The cause of a file that was not written completely is not known
        if number == errno.EIO and shutil.disk_usage(folder).free < _SPACE:
            number = errno.ENOSPC
    if number in FULL_ERRORS or is_full(error, folder):
        return f"free disk space for {folder}, or lower evidence.max_mib"
    if code in (IOERR, READONLY):
        error = OSError(errno.EIO if code == IOERR else errno.EROFS, "")
    return f"{disk_remedy(error)} ({folder})"
