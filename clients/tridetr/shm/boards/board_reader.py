"""Readers of the sentry and status boards."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeVar

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
from tridetr.wire.spec import TableSpec, Text
from tridetr.wire.view import TableView

EntryT = TypeVar("EntryT")


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

    def __init__(self, name: RingName, spec: TableSpec, consumer: str | None = None) -> None:
        self._spec = spec
        self._ring = RingReader(name, consumer, spec, lambda _, table: table, _EntryLease)
        self._invalid = 0

    @property
    def damaged(self) -> int:
        """Number of entries that were skipped because they were invalid."""
        return self._ring.damaged + self._invalid

    def _read(self, make: Callable[..., EntryT], **enums: type[IntEnum]) -> EntryT | None:
        """Return the newest entry, made from its fields; those in ``enums`` are members of these types."""
        self._ring.forget_if_removed()  # a removed board would still have its newest entry
        lease = self._ring.lease_newest()
        if lease is None:
            return None
        with lease:
            entry = lease.entry(self._spec)
        try:
            for name, enum in enums.items():
                entry[name] = enum(entry[name])
        except ValueError:
            self._invalid += 1
            return None
        return make(**entry)

    def close(self) -> None:
        """Close the board and the queue."""
        self._ring.close()


class SentryReader(_Reader):
    """Reads the controller's decision for one camera; a context manager. One reader per thread.

    Attributes:
        wakeup: Becomes readable when an entry was written; None for a reader that polls.
    """

    def __init__(self, instance: str, camera: str, consumer: str | None = None) -> None:
        super().__init__(RingName(instance, camera, names.SENTRY), SENTRY, consumer)
        self.wakeup = self._ring.wakeup

    def read(self) -> SentrySnapshot | None:
        """Return the newest entry; None if there is none. Check ``expires_monotonic_ns``: it may have expired."""
        return self._read(SentrySnapshot, mode=SentryMode, state=SentryState)


class StatusReader(_Reader):
    """Reads the status of one camera; a context manager. One reader per thread."""

    def __init__(self, instance: str, camera: str) -> None:
        super().__init__(RingName(instance, camera, names.STATUS), STATUS)

    def read(self) -> CameraStatus | None:
        """Return the newest entry; None if there is none. Its heartbeat shows whether capture is still alive."""
        return self._read(CameraStatus, state=CameraState, blind_reason=BlindReason)
