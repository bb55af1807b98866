"""The controller's persistent state: records, outbox and history, saved together before anything is published.

Changes are collected in memory and written in one transaction. If the disk fails (full, read-only, broken), they stay
in memory, decisions continue, events are still published, and every later call retries. A full disk therefore costs
durability (a ``kill -9`` in the meantime may repeat or lose unwritten changes), never an alarm; it is reported in the
log, in ``/status`` and by a counter.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tridetr.controller.database import (
    START_WAIT_S,
    WAIT_S,
    CorruptDatabaseError,
    Database,
    NewerDatabaseError,
)
from tridetr.controller.history import DATABASE, HISTORY_LIMIT
from tridetr.controller.notices import Notices
from tridetr.controller.rescue import finish_replacement, replace_database, rescue
from tridetr.controller.stored_rows import Changes, Contents, NewRow, Row, Saved
from tridetr.errors import TridetrError
from tridetr.file_lock import FileLock, FileLockedError
from tridetr.paths import private_folder
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.controller")


class StoreError(TridetrError):
    """The state folder cannot be used at all."""


class Store:
    """Holds the controller's state in memory and on disk.

    A database that cannot be opened at startup (locked by a backup, disk full) is read as soon as possible: its events
    then come before those decided meanwhile, which are renumbered to follow them.

    Attributes:
        outbox: events that the broker has not acknowledged, by event ID, oldest first.
        cameras: latest saved record of each camera.
        retained: topics that hold a retained message of this node, with the entities that it declares.
        found_late: records of a database that could be read only after the start; the controller empties it.
        fault: why changes are not on disk; empty = everything is written.
        last_seq: highest number assigned so far.
        audience: returns the notification targets of a new event.
        notices: queues of events that notification targets have not received yet.
        settings: manual settings and known outages, by name.

    Raises:
        StoreError: another controller uses the folder, or a later version has written the database.
    """

    def __init__(self, state_dir: Path, *, outbox_limit: int) -> None:
        self._path = state_dir / DATABASE
        self._limit = outbox_limit
        self._database: Database | None = None
        self._started = self._loaded = False
        self.outbox: OrderedDict[str, Row] = OrderedDict()
        self.cameras: dict[str, Saved] = {}
        self.retained: dict[str, str] = {}
        self.found_late: dict[str, Saved] = {}
        self.fault = ""
        self.last_seq = 0
        self.audience: Callable[[Row], tuple[str, ...]] = lambda _row: ()
        self.notices = Notices()
        self._changes = Changes(notices=self.notices.changes)
        self.settings: dict[str, str] = {}
        for reason in ("corrupt", "full", "other"):  # at 0, so that the first one is an increase
            metrics.STORE_ERRORS.labels(reason)
        self._lock = _lock_folder(state_dir)
        try:
            self._open(START_WAIT_S)
        except NewerDatabaseError as error:
            self._unlock_folder()
            raise StoreError(str(error)) from None
        self._started = True
        self._drop_oldest()
        self.flush()

    def commit(self, camera: str, record: str, rows: list[NewRow]) -> list[Row]:
        """Save a camera's record and its new rows in one transaction; return the numbered rows.

        Does not raise if the disk fails: see ``fault``.
        """
        numbered = []
        for row in rows:
            self.last_seq += 1
            new = Row(self.last_seq, row.unix_ns, camera, row.kind, row.details, row.event_id)
            if new.event_id:
                new = replace(new, targets=self.audience(new))
            self.notices.add(new)
            numbered.append(new)
        self.cameras[camera] = self._changes.cameras[camera] = Saved(record, time.time_ns())
        self._changes.forgotten.discard(camera)
        self._changes.rows += numbered
        self.outbox.update((row.event_id, row) for row in numbered if row.event_id)
        self._drop_oldest()
        self.flush()
        return numbered

    def confirm(self, event_id: str) -> Row | None:
        """Remove an event that the broker has acknowledged from the outbox; return it, or None if it was gone."""
        row = self.outbox.pop(event_id, None)
        if row is not None:
            self._changes.leaving.add(event_id)
            self.flush()
        metrics.OUTBOX_DEPTH.set(len(self.outbox))
        return row

    def add_notice(self, row: NewRow, camera: str, targets: tuple[str, ...]) -> None:
        """Queue a notification that is not a visit's event, so neither sent over MQTT nor part of the history.

        It is written with the next change.
        """
        self.notices.add(
            Row(self.last_seq, row.unix_ns, camera, row.kind, row.details, row.event_id, targets)
        )

    def notified(self, target: str, event_id: str) -> None:
        """Remove an event from the queue of a target: it was delivered or dropped."""
        self.notices.remove(target, event_id)
        self.flush()

    def keep_setting(self, name: str, value: str | None) -> None:
        """Save a setting; None deletes it."""
        if value is None:
            self.settings.pop(name, None)
        else:
            self.settings[name] = value
        self._changes.settings[name] = value
        self.flush()

    def forget(self, camera: str) -> None:
        """Remove the record of a camera that is no longer configured."""
        self.cameras.pop(camera, None)
        self._changes.cameras.pop(camera, None)
        self._changes.forgotten.add(camera)
        self.flush()

    def remember(self, topics: Mapping[str, str]) -> None:
        """Save topics that are about to hold a retained message, with the entities that it declares."""
        changed = {
            topic: text for topic, text in topics.items() if self.retained.get(topic) != text
        }
        self.retained.update(changed)
        self._changes.retained.update(changed)
        self.flush()

    def cleared(self, topic: str) -> None:
        """Save that a topic no longer holds a retained message."""
        if self.retained.pop(topic, None) is not None:
            self._changes.retained[topic] = None
            self.flush()

    def flush(self, *, again: bool = True) -> bool:
        """Try to write all pending changes; return whether the disk is up to date.

        Args:
            again: retry once if the file holds rows that are unknown in memory.
        """
        try:
            if self._database is not None and not self._database.is_current:
                logger.error(
                    "%s was removed or replaced while in use: writing it again", self._path
                )
                self._close_database()
                self._write_all()
            if self._database is None and not self._open(WAIT_S):
                return False
            if not self._changes:
                return self._recovered()
            assert self._database is not None
            self._database.write(self._changes)
        except CorruptDatabaseError as error:
            self._replace_broken(error)
            return False
        except sqlite3.IntegrityError as error:
            # The file holds rows that are unknown in memory, for example a commit that was reported as failed but was
            # written: read the file again.
            self._close_database()
            if again:
                return self.flush(again=False)
            self._fail(error)
            return False
        except (sqlite3.Error, OSError, NewerDatabaseError) as error:
            self._fail(error)
            return False
        self._written()
        return self._recovered()

    def close(self) -> None:
        """Write the pending changes and close the database."""
        self.flush()
        self._close_database()
        self._unlock_folder()

    def _unlock_folder(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _write_all(self) -> None:
        """Mark everything that is not a row as not yet written, for a new file."""
        self._changes.cameras = dict(self.cameras)
        self._changes.retained.update(self.retained)
        self._changes.settings.update(self.settings)
        self.notices.write_all()

    def _written(self) -> None:
        self.notices.changes.clear()
        self._changes = Changes(notices=self.notices.changes)

    def _recovered(self) -> bool:
        if self.fault:
            logger.warning("the state is saved on disk again", extra={"path": str(self._path)})
            self.fault = ""
        return True

    def _close_database(self) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _open(self, wait_s: float) -> bool:
        """Open the database and load its contents; return whether that was possible."""
        try:
            if aside := finish_replacement(self._path):
                logger.error("the broken state database was moved to %s", aside)
            self._warn_of_empty()
            database = Database(self._path, wait_s)
            try:
                found = database.load()
            except BaseException:
                database.close()
                raise
        except CorruptDatabaseError as error:
            self._replace_broken(error)
        except (sqlite3.Error, OSError) as error:
            self._fail(error)
        else:
            self._database = database
            self._take_over(found, held={row.event_id for row in found.outbox})
        return self._database is not None

    def _warn_of_empty(self) -> None:
        with suppress(FileNotFoundError):
            if self._path.is_file() and self._path.stat().st_size == 0:
                metrics.STORE_ERRORS.labels("corrupt").inc()
                logger.error(
                    "%s is empty: its contents are lost, starting a new database", self._path
                )

    def _replace_broken(self, error: Exception) -> None:
        """Move a broken database aside and write everything in memory and readable in the file to a new one."""
        self._close_database()
        metrics.STORE_ERRORS.labels("corrupt").inc()
        try:
            found = rescue(self._path)
            self._take_over(found, held=set())  # the new file holds nothing yet
            self._write_all()
            contents = Contents(
                self.cameras,
                list(self.outbox.values()),
                found.history,
                self.retained,
                notices=self.notices.all(),
                settings=self.settings,
            )
            aside = replace_database(self._path, contents)
            self._database = Database(self._path)
        except (sqlite3.Error, OSError, CorruptDatabaseError, NewerDatabaseError) as failure:
            self._fail(failure)
            return
        # Events that the broker has already acknowledged are only missing from the history.
        rows = [row for row in self._changes.rows if row.event_id not in self.outbox]
        self._written()
        self._changes.rows = [replace(row, event_id="") for row in rows]
        logger.error(
            "the state database is broken (%s): moved to %s. A new one holds what could be read: %d cameras and %d "
            "events that are waiting for the broker; anything else in it is lost",
            error,
            aside,
            len(found.cameras),
            len(found.outbox),
        )

    def _take_over(self, found: Contents, held: set[str]) -> None:
        """Merge the contents of a file, which come before events decided meanwhile.

        Args:
            found: contents of the file.
            held: IDs of the events that are in the file at the path already and must not be written again.
        """
        older = [
            row
            for row in found.outbox
            if row.event_id not in self._changes.leaving and row.event_id not in self.outbox
        ]
        rows = {row.seq: row for row in [*self.outbox.values(), *self._changes.rows]}
        mine = [rows[seq] for seq in sorted(rows) if rows[seq].event_id not in held]
        self.last_seq = max(self.last_seq, found.last_seq)
        if mine and mine[0].seq <= found.last_seq:
            mine = [replace(row, seq=self.last_seq + n) for n, row in enumerate(mine, start=1)]
            self.last_seq += len(mine)
        self._changes.rows = mine
        renumbered = {row.event_id: row for row in mine}
        waiting = [renumbered.get(row.event_id, row) for row in self.outbox.values()]
        self.outbox = OrderedDict((row.event_id, row) for row in [*older, *waiting])
        self.notices.take_over(found.notices, renumbered)
        for name, value in found.settings.items():
            if name not in self._changes.settings:
                self.settings.setdefault(name, value)
        for camera, saved in found.cameras.items():
            if camera not in self._changes.forgotten:
                self.cameras.setdefault(camera, saved)
                if self._started and not self._loaded:
                    self.found_late.setdefault(camera, saved)
        self._loaded = True
        forgotten = {topic for topic, text in self._changes.retained.items() if text is None}
        for topic, text in found.retained.items():
            if topic not in forgotten:
                self.retained.setdefault(topic, text)
        metrics.OUTBOX_DEPTH.set(len(self.outbox))

    def _fail(self, error: Exception) -> None:
        full = "full" in str(error) or getattr(error, "errno", None) == errno.ENOSPC
        metrics.STORE_ERRORS.labels("full" if full else "other").inc()
        # Bound the rows that are for the history only; events are bounded by the outbox.
        rows = self._changes.rows
        notes = [row for row in rows if row.event_id not in self.outbox]
        surplus = {row.seq for row in notes[: max(0, len(notes) - HISTORY_LIMIT)]}
        self._changes.rows = [row for row in rows if row.seq not in surplus]
        reason = f"{self._path}: {error}"
        if reason != self.fault:
            remedy = "check the folder and its permissions"
            if full:
                remedy = "free some space"
            elif "locked" in str(error):
                remedy = "another program has locked the file (a backup?); retrying"
            logger.error(
                "the state cannot be written (%s): decisions continue in memory and events are still published, but "
                "a restart now may repeat or lose some; %s",
                reason,
                remedy,
            )
        self.fault = reason

    def _drop_oldest(self) -> None:
        dropped = 0
        while len(self.outbox) > self._limit:
            event_id, _ = self.outbox.popitem(last=False)
            self._changes.leaving.add(event_id)
            dropped += 1
        if dropped:
            metrics.OUTBOX_DROPPED.inc(dropped)
            logger.error(
                "the outbox is at its limit of %d events (mqtt.outbox_limit): %d dropped, oldest first",
                self._limit,
                dropped,
            )
        metrics.OUTBOX_DEPTH.set(len(self.outbox))


def _lock_folder(state_dir: Path) -> FileLock | None:
    """Lock the folder for this process (the kernel unlocks it when the process dies); None if it is read-only."""
    try:
        private_folder(state_dir, "state_dir", may_be_read_only=True)
        return FileLock(state_dir / "controller.lock", f"process {os.getpid()}")
    except FileLockedError as error:
        raise StoreError(
            f"another controller already uses {state_dir} ({error.holder}): stop it, or set a different `instance` "
            "for this one"
        ) from None
    except OSError as error:
        if error.errno == errno.EROFS:  # decisions continue in memory, as with a full disk
            return None
        raise StoreError(f"state_dir {state_dir} cannot be used: {error}") from None
