"""The files in ``evidence.path``: which are the recorder's, and what becomes of those of an unreadable database."""

from __future__ import annotations

import errno
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from tridetr.errors import TridetrError

DATABASE = "evidence.db"
FOLDER_LOCK = "recorder.lock"
FILES = "files"
PART = ".part"
DAY_NS = 86_400 * 10**9
_BROKEN = "broken-"  # folders of unreadable databases; the time (Unix, ns) follows
# Files of the recorder: the visit's UUID, the time at which the file was begun (Unix, ns), the kind
_OWN = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-[0-9a-f]+\.(jpg|crop\.jpg|mp4)(\.part)?"
)
_SIDES = ("", "-wal", "-shm", "-journal")
# Disk space left for the controller's events and other programs: the smaller one applies
_RESERVE_MIB, _RESERVE_SHARE = 256, 0.05


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


def move_aside(folder: Path) -> Path:
    """Move the recorder's files and an unreadable database into a new folder, and return that.

    Args:
        folder: ``config.evidence_dir``.

    Raises:
        OSError: They cannot be moved.
    """
    aside = folder / f"{_BROKEN}{time.time_ns()}"
    aside.mkdir(mode=0o700)
    for found in own_databases(folder):
        found.rename(aside / found.name)
    files, moved = folder / FILES, aside / FILES
    own = own_files(files)
    if len(own) == len(os.listdir(files)):  # noqa: PTH208
        files.rename(moved)
        files.mkdir(mode=0o700)
        return aside
    moved.mkdir(mode=0o700)
    for file in own:
        file.rename(moved / file.name)
    return aside


def remove_moved(folder: Path, max_bytes: int, least_unix_ns: int) -> None:
    """Remove folders that were moved aside; the newest is kept for a day, as long as the disk has room.

    Args:
        folder: ``config.evidence_dir``.
        max_bytes: Size of all together; the oldest beyond it are removed.
        least_unix_ns: Those moved before are removed.
    """
    room = max_bytes
    kept_ns = time.time_ns() - DAY_NS if _has_room(folder) else None
    for moved in sorted(folder.glob(f"{_BROKEN}*"), reverse=True):  # newest first
        moved_ns = moved.name.removeprefix(_BROKEN)
        if not moved_ns.isdecimal() or moved.is_symlink():
            continue
        files = moved / FILES
        own = [*own_files(files), *own_databases(moved)]
        room -= sum(file.stat().st_size for file in own)
        is_kept = kept_ns is not None and int(moved_ns) > kept_ns
        kept_ns = None
        if is_kept:
            continue
        if room < 0 or int(moved_ns) < least_unix_ns:
            with suppress(OSError):  # such as files that the user added
                for file in own:
                    file.unlink()
                if files.exists():
                    files.rmdir()
                moved.rmdir()


def require_room(folder: Path) -> None:
    """Check that enough disk space is left for other programs.

    Raises:
        OSError: There is not enough.
    """
    found = os.statvfs(folder)
    free, whole = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    if free < min(_RESERVE_MIB * 2**20, whole * _RESERVE_SHARE):
        raise OSError(errno.ENOSPC, f"only {free // 2**20} MiB are free on the disk", str(folder))


def _has_room(folder: Path) -> bool:
    with suppress(OSError):
        require_room(folder)
        return True
    return False
