"""State, visit and outbox on disk, changed together before anything is told.

What is to be written is gathered in memory first and written in one transaction; when the disk refuses (full,
read-only, broken), it stays gathered, the machine goes on deciding, events still go out, and every later call tries
again. So a full disk costs durability (a ``kill -9`` during it may repeat or lose what is not written yet), never an
alarm; and it is said in the log, in ``/status`` and in a counter.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tridetr.controller.database import (
    CorruptDatabaseError,
    Database,
    Row,
    Saved,
    is_corrupt,
    move_aside,
)
from tridetr.controller.history import DATABASE, HISTORY_LIMIT
from tridetr.errors import TridetrError
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.controller")


class StoreError(TridetrError):
    """The state folder cannot be used at all."""


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row to come; the store gives it its number."""

    unix_ns: int
    kind: str
    details: str
    event_id: str = ""


class Store:
    """The controller's memory on disk.

    Attributes:
        outbox: events that the broker has not confirmed, oldest first, by number.
        cameras: the latest saved record of each camera.
        fault: why the disk is behind; empty when all is written.
        last_seq: the greatest number given.

    Raises:
        StoreError: another controller uses the folder.
    """

    def __init__(self, state_dir: Path, *, outbox_limit: int) -> None:
        self._path = state_dir / DATABASE
        self._limit = outbox_limit
        self._database: Database | None = None
        self._dirty: dict[str, Saved] = {}
        self._forgotten: set[str] = set()
        self._rows: list[Row] = []
        self._leaving: set[int] = set()
        self.outbox: OrderedDict[int, Row] = OrderedDict()
        self.cameras: dict[str, Saved] = {}
        self.fault = ""
        self.last_seq = 0
        for reason in ("corrupt", "full", "other"):  # at 0, so that the first one is an increase
            metrics.STORE_ERRORS.labels(reason)
        self._lock = _lock_folder(state_dir)
        if self._open():
            assert self._database is not None
            self.cameras = self._database.cameras()
            self.outbox = OrderedDict((row.seq, row) for row in self._database.outbox())
            self.last_seq = self._database.last_seq()
        self._drop_oldest()
        metrics.OUTBOX_DEPTH.set(len(self.outbox))

    def commit(self, camera: str, record: str, rows: list[NewRow]) -> list[Row]:
        """Save a camera's record and its new rows together; returns the numbered rows.

        Never raises for a disk that refuses: see ``fault``.
        """
        numbered = []
        for row in rows:
            self.last_seq += 1
            numbered.append(
                Row(self.last_seq, row.unix_ns, camera, row.kind, row.details, row.event_id)
            )
        self.cameras[camera] = self._dirty[camera] = Saved(record, time.time_ns())
        self._forgotten.discard(camera)
        self._rows += numbered
        self.outbox.update((row.seq, row) for row in numbered if row.event_id)
        self._drop_oldest()
        self.flush()
        return numbered

    def confirm(self, seq: int) -> Row | None:
        """Take an event out of the outbox because the broker has it; None if it was gone already."""
        row = self.outbox.pop(seq, None)
        if row is not None:
            self._leaving.add(seq)
            self.flush()
        metrics.OUTBOX_DEPTH.set(len(self.outbox))
        return row

    def forget(self, camera: str) -> None:
        """Remove the record of a camera that is no longer configured."""
        self.cameras.pop(camera, None)
        self._dirty.pop(camera, None)
        self._forgotten.add(camera)
        self.flush()

    def flush(self) -> bool:
        """Try to write what is gathered; returns whether the disk is up to date."""
        if not (self._dirty or self._rows or self._leaving or self._forgotten):
            return not self.fault
        try:
            if self._database is None and not self._open():
                return False
            assert self._database is not None
            self._database.write(self._dirty, self._rows, self._leaving, self._forgotten)
        except (sqlite3.Error, OSError) as error:
            self._fail(error)
            if is_corrupt(error):
                self._start_afresh(str(error))
            return False
        self._dirty, self._rows = {}, []
        self._leaving.clear()
        self._forgotten.clear()
        if self.fault:
            logger.warning("the state is on disk again", extra={"path": str(self._path)})
            self.fault = ""
        return True

    def close(self) -> None:
        """Write what is left and close."""
        self.flush()
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None
        os.close(self._lock)

    def _open(self) -> bool:
        try:
            self._database = Database(self._path)
        except CorruptDatabaseError as error:
            self._start_afresh(str(error))
        except (sqlite3.Error, OSError) as error:
            self._fail(error)
        return self._database is not None

    def _start_afresh(self, reason: str) -> None:
        """Put a broken database aside and write all that memory holds into a new one."""
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None
        metrics.STORE_ERRORS.labels("corrupt").inc()
        try:
            aside = move_aside(self._path)
            logger.error(
                "the state database is broken (%s): kept as %s, a new one is begun; events that only it held "
                "are lost",
                reason,
                aside,
            )
            self._database = Database(self._path)
        except (sqlite3.Error, OSError, CorruptDatabaseError) as error:
            self._fail(error)
        self._dirty = dict(self.cameras)
        waiting = {row.seq: row for row in [*self.outbox.values(), *self._rows]}
        self._rows = [waiting[seq] for seq in sorted(waiting)]

    def _fail(self, error: Exception) -> None:
        full = "full" in str(error) or getattr(error, "errno", None) == 28
        metrics.STORE_ERRORS.labels("full" if full else "other").inc()
        # What is only for the history may not grow for ever; events are bounded by the outbox.
        notes = [row for row in self._rows if not row.event_id or row.seq not in self.outbox]
        surplus = {row.seq for row in notes[: max(0, len(notes) - HISTORY_LIMIT)]}
        self._rows = [row for row in self._rows if row.seq not in surplus]
        reason = f"{self._path}: {error}"
        if reason != self.fault:
            remedy = "free some space" if full else "check the folder and its permissions"
            logger.error(
                "the state cannot be written (%s): deciding goes on in memory and events are still sent, but a "
                "restart may now repeat or lose one; %s",
                reason,
                remedy,
            )
        self.fault = reason

    def _drop_oldest(self) -> None:
        dropped = 0
        while len(self.outbox) > self._limit:
            seq, _ = self.outbox.popitem(last=False)
            self._leaving.add(seq)
            dropped += 1
        if dropped:
            metrics.OUTBOX_DROPPED.inc(dropped)
            logger.error(
                "the outbox is at its limit of %d events (mqtt.outbox_limit): %d dropped, oldest first",
                self._limit,
                dropped,
            )
        metrics.OUTBOX_DEPTH.set(len(self.outbox))


def _lock_folder(state_dir: Path) -> int:
    """Take the folder for this process; the kernel frees it when the process dies."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(
            state_dir / "controller.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise StoreError(f"state_dir {state_dir} cannot be used: {error}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise StoreError(
            f"another controller already uses {state_dir}: stop it, or give this one another `instance`"
        ) from None
    return descriptor
