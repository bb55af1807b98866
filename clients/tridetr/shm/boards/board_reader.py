"""Readers of the sentry and status boards."""

from __future__ import annotations

from typing import Any

from tridetr.shm import names
from tridetr.shm.boards.board_table import (
    SENTRY,
    STATUS,
    BlindReason,
    CameraState,
    CameraStatus,
    SentryMode,
    SentrySnapshot,
    SentryState,
)
from tridetr.shm.closing import Closing
from tridetr.shm.lease import Lease
from tridetr.shm.names import RingName
from tridetr.shm.ring_reader import RingReader
from tridetr.shm.wakeup import Wakeup
from tridetr.wire.spec import TableSpec, Text
from tridetr.wire.view import TableView


class _EntryLease(Lease):
    __slots__ = ()
    _view: TableView

    def entry(self, spec: TableSpec) -> dict[str, Any]:
        """Return the fields by name."""
        table, buffer = self._view, self._mapping.buffer
        values = table.read(buffer)
        entry = {field.name: value for field, value in zip(spec.record, values, strict=True)}
        for field in spec.fields:
            if isinstance(field, Text):
                entry[field.name] = table.text(buffer, field.name)
        return entry


class _Reader(Closing):
    """Reads the newest entry of a board. The board does not have to exist yet."""

    def __init__(self, name: RingName, spec: TableSpec, wakeup: Wakeup | None = None) -> None:
        self._spec = spec
        self._ring = RingReader(name, spec, lambda _, table: table, _EntryLease, wakeup)
        self._invalid = 0

    @property
    def damaged(self) -> int:
        """Number of entries that were skipped because they were invalid."""
        return self._ring.damaged + self._invalid

    def _read(self) -> dict[str, Any] | None:
        self._ring.forget_if_removed()  # a removed board would still have its newest entry
        lease = self._ring.lease_newest()
        if lease is None:
            return None
        with lease:
            return lease.entry(self._spec)

    def close(self) -> None:
        """Close the board and the queue."""
        self._ring.close()


class SentryReader(_Reader):
    """Reads the controller's decision for one camera; a context manager. One reader per thread.

    Attributes:
        wakeup: Becomes readable when an entry was written; None for a reader that polls.
    """

    def __init__(self, instance: str, camera: str, consumer: str | None = None) -> None:
        name = RingName(instance, camera, names.SENTRY)
        self.wakeup = Wakeup(name.queue(consumer)) if consumer is not None else None
        super().__init__(name, SENTRY, self.wakeup)

    def read(self) -> SentrySnapshot | None:
        """Return the newest entry; None if there is none. Check ``expires_monotonic_ns``: it may have expired."""
        entry = self._read()
        if entry is None:
            return None
        try:
            entry["mode"], entry["state"] = SentryMode(entry["mode"]), SentryState(entry["state"])
        except ValueError:
            self._invalid += 1
            return None
        return SentrySnapshot(**entry)


class StatusReader(_Reader):
    """Reads the status of one camera; a context manager. One reader per thread."""

    def __init__(self, instance: str, camera: str) -> None:
        super().__init__(RingName(instance, camera, names.STATUS), STATUS)

    def read(self) -> CameraStatus | None:
        """Return the newest entry; None if there is none. Its heartbeat shows whether capture is still alive."""
        entry = self._read()
        if entry is None:
            return None
        try:
            entry["state"] = CameraState(entry["state"])
            entry["blind_reason"] = BlindReason(entry["blind_reason"])
        except ValueError:
            self._invalid += 1
            return None
        return CameraStatus(**entry)
