"""Store pictures and clips on disk, with a SQLite row per visit that names its files.

A file is written under a name that ends in ``.part``, synced and renamed before a row refers to it; a row is deleted
before its files. If the recorder dies at any point, every row therefore has its files, and files without a row are
removed at the next start. Only files with names of the recorder's are removed or moved.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tridetr.errors import TridetrError
from tridetr.file_lock import FileLock, FileLockedError
from tridetr.paths import folder_on_any_disk
from tridetr.recorder.disk_faults import is_full, may_pass
from tridetr.recorder.evidence_database import (
    COMPLETE,
    facts_of,
    files_of,
    open_database,
    watched_periods,
    write_row,
)
from tridetr.recorder.evidence_files import (
    DATABASE,
    FILES,
    FOLDER_LOCK,
    PART,
    refuse_other_files,
    remove_moved,
)
from tridetr.recorder.retention import Retention
from tridetr.recorder.visit_files import VisitFiles
from tridetr.recorder.wall_clock import JUMP_NS, WallClock
from tridetr.shm.closing import Closing
from tridetr.sqlite_files import check_room, transaction

logger = logging.getLogger("tridetr.recorder")


@dataclass(frozen=True, slots=True)
class VisitFacts:
    """The facts about a visit that its row stores in addition to its files; times are capture times."""

    visit_id: str
    camera: str
    class_name: str
    started_unix_ns: int
    ended_unix_ns: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What the archive holds of a visit that is still open."""

    facts: VisitFacts
    picture_value: float
    has_clip: bool


class Archive(Closing):
    """The folder of pictures and clips; used by one process, in any of its threads.

    Attributes:
        files: Folder of the pictures and clips.
    """

    def __init__(self, path: Path, *, keep_days: float, max_mib: float) -> None:
        """Open the folder, and remove incomplete files that a killed recorder left behind.

        On a full disk, visits beyond the limits are removed first.

        Args:
            path: Folder; created if it does not exist.
            keep_days: Days after which visits are removed.
            max_mib: Size limit of all files in MiB.

        Raises:
            TridetrError: The folder cannot be used.
            OSError, sqlite3.Error: Its disk is full, read-only or failing, or the database is locked, which may pass.
        """
        self._lock = threading.Lock()
        self.files = path / FILES
        self._files = VisitFiles(self.files)
        self._retention = Retention(self._files, keep_days=keep_days, max_mib=max_mib)
        self._database = path / DATABASE
        try:
            folder_on_any_disk(path, "evidence.path")
            refuse_other_files(path)
            with ExitStack() as stack:
                self._folder_lock = stack.enter_context(
                    FileLock(path / FOLDER_LOCK, f"process {os.getpid()}")
                )
                self.files.mkdir(mode=0o700, exist_ok=True)
                self._files.remove_unfinished()
                try:
                    self._open(path)
                except (OSError, sqlite3.Error) as error:
                    if not is_full(error, path):
                        raise
                    self._retention.make_room(self._database)
                    self._open(path)
                stack.pop_all()
        except FileLockedError as error:
            raise TridetrError(
                f"another recorder ({error.holder}) already uses {path}: stop it, or set evidence.path to "
                "a different folder"
            ) from None
        except (OSError, sqlite3.Error) as error:
            if may_pass(error):
                raise
            raise TridetrError(
                f"evidence.path {path} cannot be used: {error}. Check its permissions, or set it to another folder"
            ) from None
        if (mode := self.files.stat().st_mode) & 0o007:
            logger.warning(
                "other users of this machine can read the pictures in %s (mode %o). Run `chmod 700` on it; if "
                "its file system has no Unix permissions, mount it with umask=077",
                self.files,
                mode & 0o777,
            )

    def _open(self, path: Path) -> None:
        """Open the database, and make it agree with the files."""
        check_room(path)
        self._connection = open_database(path)
        try:
            self._identity = _identity(self._database)
            self._sweep()
            self._clock = WallClock(self._watched())
            self._watch: int | None = self._begin_watch()
        except BaseException:
            self._connection.close()
            raise

    # --- writing

    def check_present(self) -> None:
        """Check that the database and the folder of the files are still those that were opened.

        Rows in a database that was removed or replaced, or whose disk was unmounted, would be lost unnoticed.

        Raises:
            TridetrError: They were removed or replaced; open the archive again.
        """
        with suppress(OSError):
            if _identity(self._database) == self._identity and self.files.is_dir():
                return
        raise TridetrError(
            f"{self._database} or {self.files} was removed or replaced while in use: opening them again"
        )

    @property
    def largest_clip(self) -> int:
        """Maximum size of one clip in bytes."""
        return self._retention.max_bytes // 4

    def part(self, name: str) -> Path:
        """Return the path to write a file to until it is complete.

        Raises:
            OSError: There is not enough disk space.
        """
        return self._files.part(name)

    def save_picture(
        self, visit: VisitFacts, jpegs: tuple[bytes, bytes], score: float, facts: dict[str, Any]
    ) -> None:
        """Save a visit's picture and crop, replacing earlier ones.

        Args:
            visit: The visit.
            jpegs: Picture and crop.
            score: Score of the picture's best box.
            facts: Boxes, sizes and capture time of the picture.

        Raises:
            OSError, sqlite3.Error: They cannot be written; earlier ones are kept.
        """
        stem = f"{visit.visit_id}-{time.time_ns():x}"
        names = f"{stem}.jpg", f"{stem}.crop.jpg"
        try:
            for name, data in zip(names, jpegs, strict=True):
                part = self.part(name)
                part.write_bytes(data)
                self._files.complete(part, name)
            self._name(
                visit, {"picture": names[0], "crop": names[1]}, score=score, picture_facts=facts
            )
        except BaseException:
            self._files.remove(*names)
            raise

    def save_clip(self, visit: VisitFacts, part: Path, facts: dict[str, Any]) -> None:
        """Save a visit's finished clip, whose file is renamed.

        Args:
            visit: The visit.
            part: Path of the finished file.
            facts: Start, end and kind of the clip.

        Raises:
            OSError, sqlite3.Error: It cannot be saved; the file is removed.
        """
        name = part.name.removesuffix(PART)
        try:
            self._files.complete(part, name)
            self._name(visit, {"clip": name}, clip_facts=facts)
        except BaseException:
            self._files.remove(name)
            raise

    def follow(self, visit: VisitFacts, state: int = COMPLETE) -> None:
        """Update the end and the state of a visit's row, if it has one.

        Args:
            visit: The visit.
            state: ``OPEN``, ``ENDED`` (files may still be added) or ``COMPLETE``.

        Raises:
            OSError, sqlite3.Error: The row cannot be written.
        """
        with self._lock:
            self._write(
                "UPDATE visit SET ended_unix_ns = ?, is_open = ? WHERE visit_id = ?",
                (visit.ended_unix_ns, state, visit.visit_id),
            )

    def open_visits(self) -> dict[str, Kept]:
        """Return the incomplete visits by ID."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT visit_id, camera, class, started_unix_ns, ended_unix_ns, picture_facts, clip FROM visit "
                "WHERE is_open"
            ).fetchall()
        return {
            columns[0]: Kept(
                VisitFacts(*columns),
                float(value)
                if isinstance(value := facts_of(picture).get("value"), int | float)
                else 0.0,
                clip is not None,
            )
            for *columns, picture, clip in rows
        }

    def begin_blind(self, camera: str, unix_ns: int) -> int:
        """Record that a camera is no longer watched; return the number of the row.

        Raises:
            OSError, sqlite3.Error: The row cannot be written.
        """
        with self._lock:
            row = self._write(
                "INSERT INTO blind (camera, started_unix_ns, ended_unix_ns) VALUES (?, ?, ?)",
                (camera, unix_ns, unix_ns),
            ).lastrowid
        assert row is not None
        return row

    def keep_blind(self, row: int, unix_ns: int) -> None:
        """Record that a camera was not watched up to a time.

        Args:
            row: Number of the row.
            unix_ns: Wall-clock time.

        Raises:
            OSError, sqlite3.Error: The row cannot be written.
        """
        with self._lock:
            self._write("UPDATE blind SET ended_unix_ns = ? WHERE seq = ?", (unix_ns, row))

    def keep_watch(self) -> None:
        """Record that the recorder is running now.

        Raises:
            OSError, sqlite3.Error: The row cannot be written.
        """
        self._check_clock()
        if self._watch is None:
            self._watch = self._begin_watch()
        with self._lock:
            self._write(
                "UPDATE watch SET ended_unix_ns = ? WHERE seq = ?", (time.time_ns(), self._watch)
            )

    # --- removing

    def retain(self, removing: Callable[[], object] = lambda: None) -> None:
        """Remove visits that are too old, and the first ones beyond the size limit; open visits are kept.

        Unreadable databases that were moved aside are subject to the same limits, separately.

        For a day after the clock was set, or after a pause of more than a day, nothing is removed for its age, even
        after a restart: a wrong clock must not delete everything.

        Args:
            removing: Called before each visit is removed; there may be thousands.

        Raises:
            OSError, sqlite3.Error: The database cannot be written.
        """
        self._check_clock()
        least = self._retention.oldest_unix_ns(self._clock)
        remove_moved(self.files.parent, self._retention.max_bytes, least)
        with self._lock:
            self._retention.retain(self._connection, least, removing)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()
        self._folder_lock.close()

    def _write(self, query: str, values: tuple[object, ...]) -> sqlite3.Cursor:
        """Execute a statement that changes one row or a few, if there is room for it."""
        return write_row(self._connection, self.files, query, values)

    def _name(self, visit: VisitFacts, names: dict[str, str], **columns: Any) -> None:
        """Set new files in the visit's row, which is created if necessary, and remove the files that they replace."""
        values = {
            **names,
            **{k: json.dumps(v) if isinstance(v, dict) else v for k, v in columns.items()},
        }
        with self._lock, transaction(self._connection, self._database.parent) as connection:
            before = connection.execute(
                f"SELECT {', '.join(names)} FROM visit WHERE visit_id = ?",  # noqa: S608
                (visit.visit_id,),
            ).fetchone()
            connection.execute(
                "INSERT OR IGNORE INTO visit (visit_id, camera, class, started_unix_ns, ended_unix_ns, is_open, bytes)"
                " VALUES (?, ?, ?, ?, ?, 1, 0)",
                (
                    visit.visit_id,
                    visit.camera,
                    visit.class_name,
                    visit.started_unix_ns,
                    visit.ended_unix_ns,
                ),
            )
            settings = ", ".join(f"{column} = ?" for column in values)
            connection.execute(
                f"UPDATE visit SET {settings}, ended_unix_ns = max(ended_unix_ns, ?) WHERE visit_id = ?",  # noqa: S608
                (*values.values(), visit.ended_unix_ns, visit.visit_id),
            )
            held = self._files.size(files_of(connection, visit.visit_id))
            connection.execute(
                "UPDATE visit SET bytes = ? WHERE visit_id = ?", (held, visit.visit_id)
            )
        self._files.remove(*(name for name in before or () if name))

    def _sweep(self) -> None:
        """Remove the recorder's files without a row, and references to files that no longer exist."""
        with self._lock, transaction(self._connection, self._database.parent) as connection:
            present = {file.name for file in self.files.iterdir()}
            named: set[str] = set()
            for seq, *names in connection.execute(
                "SELECT seq, picture, crop, clip FROM visit"
            ).fetchall():
                picture, crop, clip = (name if name in present else None for name in names)
                if not (picture or clip):
                    connection.execute("DELETE FROM visit WHERE seq = ?", (seq,))
                    continue
                kept = (picture, crop if picture else None, clip)
                if kept != tuple(names):
                    connection.execute(
                        "UPDATE visit SET picture = ?, crop = ?, clip = ? WHERE seq = ?",
                        (*kept, seq),
                    )
                named.update(name for name in kept if name)
        self._files.remove_others(named)

    def _watched(self) -> list[tuple[int, int]]:
        """Return the periods in which recorders ran (Unix, ns), newest first; delete rows in the future."""
        with self._lock:
            found = watched_periods(self._connection)
            self._connection.execute(
                "DELETE FROM watch WHERE ended_unix_ns > ?", (time.time_ns() + JUMP_NS,)
            )
        return found

    def _check_clock(self) -> None:
        """End the period if the clock was set, so that later starts find the gap."""
        if self._clock.was_set():
            self._watch = None

    def _begin_watch(self) -> int:
        now = time.time_ns()
        with self._lock:
            row = self._write(
                "INSERT INTO watch (started_unix_ns, ended_unix_ns) VALUES (?, ?)", (now, now)
            ).lastrowid
        assert row is not None
        return row


def _identity(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_dev, status.st_ino
