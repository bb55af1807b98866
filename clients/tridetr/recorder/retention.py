"""Remove visits that are too old, and the first ones beyond the size limit."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from tridetr.recorder.disk_faults import is_full
from tridetr.recorder.evidence_database import (
    as_text,
    files_of,
    find_expired,
    watched_periods,
    write_row,
)
from tridetr.recorder.evidence_files import DAY_NS, remove_moved
from tridetr.recorder.visit_files import VisitFiles
from tridetr.recorder.wall_clock import WallClock
from tridetr.sqlite_files import open_to_read
from tridetr.telemetry import metrics


class Retention:
    """The limits of an archive, and what they remove.

    SQLite needs space to delete a row, so on a full disk the files are removed first. If the recorder dies in
    between, the next start removes the row.

    Args:
        files: Files of the visits.
        keep_days: Days after which visits are removed.
        max_mib: Size limit of all files in MiB.

    Attributes:
        max_bytes: Size limit of all files in bytes.
    """

    def __init__(self, files: VisitFiles, *, keep_days: float, max_mib: float) -> None:
        self._files = files
        self._keep_ns = round(keep_days * DAY_NS)
        self.max_bytes = round(max_mib * 2**20)
        for reason in ("age", "size"):
            metrics.EVIDENCE_REMOVED.labels(reason)

    def make_room(self, database: Path) -> None:
        """Remove the files of visits beyond the limits while the disk is too full to delete their rows.

        Args:
            database: Path of the database, which is only read.
        """
        least = 0
        with suppress(sqlite3.Error), closing(open_to_read(database)) as connection:
            connection.text_factory = as_text
            if WallClock(watched_periods(connection)).is_trusted:
                least = time.time_ns() - self._keep_ns
            expired, _ = find_expired(connection, least, self.max_bytes)
            for visit_id, reason in expired.items():
                names = files_of(connection, visit_id)
                if any((self._files.folder / name).exists() for name in names):
                    self._files.remove(*names)
                    metrics.EVIDENCE_REMOVED.labels(reason).inc()
        remove_moved(database.parent, self.max_bytes, least)

    def oldest_unix_ns(self, clock: WallClock) -> int:
        """Return the time (Unix, ns) before which visits are too old; 0 while the clock cannot be trusted."""
        return time.time_ns() - self._keep_ns if clock.is_trusted else 0

    def retain(
        self, connection: sqlite3.Connection, least_unix_ns: int, removing: Callable[[], object]
    ) -> None:
        """Remove visits and periods beyond the limits; open visits are kept.

        Args:
            connection: To the database.
            least_unix_ns: ``oldest_unix_ns()``.
            removing: Called before each visit is removed; there may be thousands.

        Raises:
            OSError, sqlite3.Error: The database cannot be written.
        """
        unfinished = self._files.unfinished_size
        expired, size = find_expired(connection, least_unix_ns, self.max_bytes - unfinished)
        metrics.EVIDENCE_BYTES.set(unfinished + size)
        self._forget(connection, expired, removing)
        for table in ("blind", "watch"):
            write_row(
                connection,
                self._files.folder,
                f"DELETE FROM {table} WHERE ended_unix_ns < ?",  # noqa: S608
                (least_unix_ns,),
            )

    def _forget(
        self,
        connection: sqlite3.Connection,
        expired: dict[str, str],
        removing: Callable[[], object],
    ) -> None:
        """Remove visits, which are given with the reason."""
        without_files = []
        for visit_id, reason in expired.items():
            removing()
            names = files_of(connection, visit_id)
            try:
                self._forget_row(connection, visit_id, reason)
            except (OSError, sqlite3.Error) as error:
                if not is_full(error, self._files.folder):
                    raise
                without_files.append(visit_id)
            self._files.remove(*names)
        for visit_id in without_files:  # there may be room now
            self._forget_row(connection, visit_id, expired[visit_id])

    def _forget_row(self, connection: sqlite3.Connection, visit_id: str, reason: str) -> None:
        query = "DELETE FROM visit WHERE visit_id = ?"
        write_row(connection, self._files.folder, query, (visit_id,))
        metrics.EVIDENCE_REMOVED.labels(reason).inc()
