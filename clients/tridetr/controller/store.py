"""The controller's persistent state: records, outbox and history, saved together before anything is published.

Changes are collected in memory and written in one transaction. If the disk fails (full, read-only, broken) or does not
answer, they stay in memory, decisions continue, events are still published, and every later call retries. Such a disk
therefore costs durability (a ``kill -9`` in the meantime may repeat or lose unwritten changes), never an alarm; it is
reported in the log, in ``/status`` and by a counter.
"""

from __future__ import annotations

import concurrent.futures
import logging
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from tridetr.controller.database import (
    START_WAIT_S,
    WAIT_S,
    CorruptDatabaseError,
    Database,
    NewerDatabaseError,
    refuse_newer,
)
from tridetr.controller.history import DATABASE, HISTORY_LIMIT
from tridetr.controller.notices import Notices
from tridetr.controller.rescue import rescue
from tridetr.controller.state_files import (
    StoreError,
    close_files,
    disk_space,
    kind_and_remedy,
    lock_folder,
    open_database,
    prepare_file,
    rebuild_database,
    write_database,
)
from tridetr.controller.stored_rows import Changes, Contents, NewRow, Row, Saved
from tridetr.disk_thread import DiskStalledError, DiskThread, Steps
from tridetr.errors import TridetrError
from tridetr.file_lock import FileLock
from tridetr.paths import UncheckedFolderError
from tridetr.sqlite_files import is_in_use
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.controller")

_SPACE_S = 30.0  # longest age of the disk's free space
_START_STOP_S = 2.0  # longest wait for a disk that stalls while the controller starts or stops


class Store:
    """Holds the controller's state in memory and on disk.

    A database that cannot be opened at startup (locked by a backup, disk full) is read as soon as possible: its events
    then come before those decided meanwhile, which are renumbered to follow them. If the disk is full, read-only or
    broken, its events are read without opening it; the rest may have changed since the disk is. Nothing is read while
    the disk fails so that the folder's owner is unknown.

    Attributes:
        outbox: events that the broker has not acknowledged, by event ID, oldest first.
        cameras: latest saved record of each camera.
        retained: topics that hold a retained message of this node, with the entities that it declares.
        found_late: records of a database that could be read only after the start; the controller empties it.
        fault: why changes are not on disk; empty = everything is written.
        space: free and total bytes of the disk, as last read; None = unknown.
        last_seq: highest number assigned so far.
        audience: returns the notification targets of a new event.
        notices: queues of events that notification targets have not received yet.
        settings: manual settings, known outages and what was cleared at the broker, by name.
        is_loaded: whether what was stored before the start has been read, as far as possible.
        has_lost_settings: whether settings among it are lost; the controller resets it.

    Raises:
        StoreError: another controller uses the folder, or a later version has written the database.
    """

    def __init__(self, state_dir: Path, *, outbox_limit: int) -> None:
        self._path = state_dir / DATABASE
        self._limit = outbox_limit
        self._disk = DiskThread("state")
        self._database: Database | None = None
        self._lock: FileLock | None = None
        self._started = self.is_loaded = self.has_lost_settings = False
        self._has_events = False  # of the file, although it is not loaded
        self._is_emptied = False
        self.outbox: OrderedDict[str, Row] = OrderedDict()
        self.cameras: dict[str, Saved] = {}
        self.retained: dict[str, str] = {}
        self.found_late: dict[str, Saved] = {}
        self.fault = ""
        self.space: tuple[int, int] | None = None
        self._space_at = float("-inf")
        self.last_seq = 0
        self.audience: Callable[[Row], tuple[str, ...]] = lambda _row: ()
        self.notices = Notices()
        self._changes = Changes(notices=self.notices.changes)
        self.settings: dict[str, str] = {}
        for reason in ("corrupt", "full", "stalled", "other"):  # at 0: the first one is an increase
            metrics.STORE_ERRORS.labels(reason)
        try:
            self._run(partial(self._save, START_WAIT_S), START_WAIT_S + _START_STOP_S)
        except TridetrError as error:
            self._release()
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

    def flush(self) -> bool:
        """Try to write all pending changes; return whether the disk is up to date.

        Waits only briefly for a disk that does not answer. A later call then takes the result.
        """
        return self._run(partial(self._save, WAIT_S))

    def close(self) -> None:
        """Write the pending changes and close the database, unless the disk does not answer."""
        saved = self._run(partial(self._save, WAIT_S), _START_STOP_S)
        if not saved and (unsaved := self._unsaved()):
            logger.error(
                "stopped although the disk has not taken everything; this may be lost: %s",
                ", ".join(unsaved),
            )
        self._release()

    def _unsaved(self) -> list[str]:
        """Name what may not be on a disk that has not taken everything."""
        events = len(self.outbox)
        return [
            *([f"{events} event(s) that the broker has not acknowledged"] if events else []),
            *(f"setting {name}" for name in self._changes.settings),
            *(f"state of {camera}" for camera in self._changes.cameras),
        ]

    def _release(self) -> None:
        """Close the files, as soon as the disk has done what it was asked for before."""
        closing = self._disk.submit(partial(close_files, self._database, self._lock))
        self._disk.close()
        with suppress(concurrent.futures.TimeoutError):
            closing.result(0.0 if self._disk.is_stalled else _START_STOP_S)
        self._database = self._lock = None

    def _run(self, start: Callable[[], Steps], patience_s: float | None = None) -> bool:
        """Continue what the disk has not finished, or start it; return whether the disk is up to date."""
        done = self._disk.run(start, patience_s)
        if done is None and self._disk.is_stalled:
            self._fail(DiskStalledError())
        return bool(done)

    def _save(self, wait_s: float) -> Steps:
        """Open the database if necessary and write all pending changes.

        Args:
            wait_s: longest wait for a database that is locked.
        """
        may_reload = True
        try:
            if time.monotonic() - self._space_at >= _SPACE_S:
                self._space_at = time.monotonic()
                self.space = yield partial(disk_space, self._path.parent)
            if self._lock is None:
                try:
                    self._lock = yield partial(lock_folder, self._path.parent)
                except OSError as error:
                    yield from self._read_events(error)
                    raise
            while True:
                if self._database is None:
                    try:
                        # Kept over attempts: one that fails can leave a part of the new file
                        self._is_emptied |= yield partial(prepare_file, self._path)
                        self._database, found = yield partial(open_database, self._path, wait_s)
                    except (sqlite3.Error, OSError) as error:
                        yield from self._read_events(error)
                        raise
                    found.is_whole = not self._is_emptied
                    self._take_over(found, held={row.event_id for row in found.outbox})
                changes = self._hand_over()
                try:
                    is_current = yield partial(write_database, self._database, changes)
                except sqlite3.IntegrityError:
                    # The file holds rows that are unknown in memory, for example a commit that was reported as failed
                    # but was written: read the file again.
                    self._take_back(changes)
                    yield from self._close_database()
                    if not may_reload:
                        raise
                    may_reload = False
                    continue
                except BaseException:
                    self._take_back(changes)
                    raise
                if not is_current:
                    self._take_back(changes)
                    logger.error(
                        "%s was removed or replaced while in use: writing it again", self._path
                    )
                    yield from self._close_database()
                    self._write_all()
                    if not may_reload:
                        return False
                    may_reload = False
                elif not self._changes:
                    return self._recovered()
        except CorruptDatabaseError as error:
            yield from self._replace_broken(error)
        except (sqlite3.Error, OSError, TridetrError) as error:
            if isinstance(error, TridetrError) and not self._started:
                raise
            self._fail(error)
        return False

    def _read_events(self, error: Exception) -> Steps:
        """Take over the events in a file that cannot be opened, once; it is loaded when it can be.

        Args:
            error: why it cannot be opened.

        Raises:
            NewerDatabaseError: a later version of tridetr has written it.
        """
        if self.is_loaded or self._has_events or isinstance(error, UncheckedFolderError):
            return True
        if is_in_use(error):  # by a program that may be writing to it, and is done soon
            return True
        yield partial(refuse_newer, self._path)
        found = yield partial(rescue, self._path)
        self._has_events = True
        events = Contents(outbox=found.outbox, last_seq=found.last_seq, notices=found.notices)
        self._merge(events, held={row.event_id for row in found.outbox})
        return True

    def _write_all(self) -> None:
        """Mark everything that is not a row as not yet written, for a new file."""
        self._changes.cameras = dict(self.cameras)
        self._changes.retained.update(self.retained)
        self._changes.settings.update(self.settings)
        self.notices.write_all()

    def _hand_over(self) -> Changes:
        """Return the pending changes, which the disk thread writes; new ones are collected separately."""
        changes = self._changes
        self.notices.changes = {}
        self._changes = Changes(notices=self.notices.changes)
        return changes

    def _take_back(self, changes: Changes) -> None:
        """Make changes that were not written pending again, before those made meanwhile."""
        self._changes = changes.followed_by(self._changes)
        self.notices.changes = self._changes.notices

    def _recovered(self) -> bool:
        if self.fault:
            logger.warning("the state is saved on disk again", extra={"path": str(self._path)})
            self.fault = ""
        return True

    def _close_database(self) -> Steps:
        database, self._database = self._database, None
        yield partial(close_files, database)
        return True

    def _replace_broken(self, error: Exception) -> Steps:
        """Move a broken database aside and write everything in memory and readable in the file to a new one."""
        yield from self._close_database()
        metrics.STORE_ERRORS.labels("corrupt").inc()
        changes = Changes()
        try:
            found = yield partial(rescue, self._path)
            # The new file gets all events in memory; those in the broken one keep their numbers, also in its history
            self._take_over(found, held={row.event_id for row in found.outbox})
            contents = Contents(
                dict(self.cameras),
                list(self.outbox.values()),
                found.history,
                dict(self.retained),
                notices=self.notices.all(),
                settings=dict(self.settings),
            )
            self._write_all()
            changes = self._hand_over()
            aside, self._database = yield partial(rebuild_database, self._path, contents)
        except (sqlite3.Error, OSError, CorruptDatabaseError, NewerDatabaseError) as failure:
            self._take_back(changes)
            self._fail(failure)
            return False
        # Events that the broker has already acknowledged are only missing from the history.
        written = {row.event_id for row in contents.outbox}
        missing = [replace(row, event_id="") for row in changes.rows if row.event_id not in written]
        self._take_back(Changes(rows=missing))
        logger.error(
            "the state database is broken (%s): moved to %s. A new one holds what could be read: %d cameras and %d "
            "events that are waiting for the broker; anything else in it is lost",
            error,
            aside,
            len(found.cameras),
            len(found.outbox),
        )
        return True

    def _take_over(self, found: Contents, held: set[str]) -> None:
        """Merge the contents of a file; see `_merge`."""
        if self._started and not self.is_loaded:
            self.found_late |= {
                camera: saved
                for camera, saved in found.cameras.items()
                if camera not in self._changes.forgotten
            }
        self._merge(found, held)
        self.has_lost_settings |= not (self.is_loaded or found.is_whole)
        self.is_loaded = True

    def _merge(self, found: Contents, held: set[str]) -> None:
        """Merge the contents of a file, which come before events decided meanwhile.

        Args:
            found: contents of the file.
            held: IDs of the events that are in the file: they keep their numbers, and are not written again.
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
        forgotten = {topic for topic, text in self._changes.retained.items() if text is None}
        for topic, text in found.retained.items():
            if topic not in forgotten:
                self.retained.setdefault(topic, text)
        metrics.OUTBOX_DEPTH.set(len(self.outbox))

    def _fail(self, error: Exception) -> None:
        kind, remedy = kind_and_remedy(error)
        metrics.STORE_ERRORS.labels(kind).inc()
        # Bound the rows that are for the history only; events are bounded by the outbox.
        rows = self._changes.rows
        notes = [row for row in rows if row.event_id not in self.outbox]
        surplus = {row.seq for row in notes[: max(0, len(notes) - HISTORY_LIMIT)]}
        self._changes.rows = [row for row in rows if row.seq not in surplus]
        reason = f"{self._path}: {error}"
        if reason != self.fault:
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
