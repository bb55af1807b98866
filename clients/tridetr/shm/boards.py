"""Boards: small rings of which only the newest entry matters (sentry mode, camera status)."""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tridetr.errors import ShmError
from tridetr.shm import layout, names
from tridetr.shm.layout import Geometry
from tridetr.shm.lease import Lease
from tridetr.shm.names import RingName
from tridetr.shm.ring_reader import RingReader
from tridetr.shm.ring_writer import RingWriter
from tridetr.shm.wakeup import Wakeup
from tridetr.wire.spec import Scalar, TableSpec, Text
from tridetr.wire.view import TableView, WireError, locate

if TYPE_CHECKING:
    from typing_extensions import Self


class SentryMode(IntEnum):
    """How fast a camera shall run: standby (a few frames a second) or alarmed (all)."""

    STANDBY = 0
    ALARMED = 1


class SentryState(IntEnum):
    """State of a camera's decision."""

    UNKNOWN = 0
    STANDBY = 1
    VALIDATION = 2
    TRACKING = 3


class CameraState(IntEnum):
    """State of a camera's source."""

    STARTING = 0
    LIVE = 1
    OFFLINE = 2
    FROZEN = 3
    ENDED = 4


@dataclass(frozen=True, slots=True)
class SentrySnapshot:
    """What the controller decided for one camera.

    Attributes:
        mode: How fast the camera shall run.
        state: State of the decision.
        state_since_unix_ns: Since when.
        visit_id: Id of the present visit, at most 36 bytes; empty: none.
        expires_monotonic_ns: CLOCK_MONOTONIC; afterwards nobody decides, and the camera runs at full rate.
        decided_frame_sequence: Newest frame of the frame ring that was decided on.
        last_event_rowid: Newest row of the event outbox.
    """

    mode: SentryMode
    state: SentryState
    state_since_unix_ns: int
    visit_id: str
    expires_monotonic_ns: int
    decided_frame_sequence: int = 0
    last_event_rowid: int = 0


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """How one camera is.

    Attributes:
        state: State of the source.
        since_unix_ns: Since when.
        heartbeat_monotonic_ns: CLOCK_MONOTONIC of this writing: an old one means that capture is dead.
        width: Pixels; 0: not known yet.
        height: Pixels.
        source_fps: Frames per second that the source promises; 0: not known.
        source_kind: ``v4l2``, ``rtsp``, ``http``, ``file`` or ``synthetic`` (at most 32 bytes).
        capture_clock: Where capture times come from: ``device``, ``arrival``, ``media`` or ``synthetic``.
        reconnects: How often the source was opened again.
        message: Why it is not live, at most 200 bytes; empty when all is well.
    """

    state: CameraState
    since_unix_ns: int
    heartbeat_monotonic_ns: int
    width: int = 0
    height: int = 0
    source_fps: float = 0.0
    source_kind: str = ""
    capture_clock: str = ""
    reconnects: int = 0
    message: str = ""


SENTRY = TableSpec(
    b"TDSE",
    (
        Scalar("state_since_unix_ns", "Q"),
        Scalar("expires_monotonic_ns", "Q"),
        Scalar("decided_frame_sequence", "Q"),
        Scalar("last_event_rowid", "Q"),
        Scalar("mode", "B"),
        Scalar("state", "B"),
        Text("visit_id", 36),
    ),
)
STATUS = TableSpec(
    b"TDST",
    (
        Scalar("since_unix_ns", "Q"),
        Scalar("heartbeat_monotonic_ns", "Q"),
        Scalar("source_fps", "d"),
        Scalar("width", "I"),
        Scalar("height", "I"),
        Scalar("reconnects", "I"),
        Scalar("state", "B"),
        Text("source_kind", 32),
        Text("capture_clock", 16),
        Text("message", 200),
    ),
)


class _Writer:
    """Writes entries of a board, given as the fields of its table by name."""

    def __init__(self, name: RingName, spec: TableSpec) -> None:
        self._spec = spec
        self._template = spec.build({})
        self._texts = {f.name: f.capacity for f in spec.fields if isinstance(f, Text)}
        geometry = Geometry(
            names.KIND_NUMBERS[name.kind],
            names.BOARD_SLOTS,
            layout.round_to_page(len(self._template)),
            (0, 0, 0, 0),
        )
        self._ring = RingWriter(name, geometry)

    def _write(self, entry: MappingType[str, Any]) -> None:
        index = self._ring.begin()
        if index is None:
            raise ShmError(f"all slots of {self._ring.segment.name} are leased")
        geometry, view = self._ring.segment.geometry, self._ring.segment.view
        start = geometry.slot_offset(index)
        view[start : start + len(self._template)] = self._template
        table = locate(self._spec, view, start, geometry.slot_size)
        values = [entry[field.name] for field in self._spec.record]
        table.record.pack_into(view, table.record_at, *values)
        for name, capacity in self._texts.items():
            table.put_text(view, name, entry[name], capacity)
        self._ring.publish(index)

    def close(self) -> None:
        """Give the board up; it stays for readers and for the next writer."""
        self._ring.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class SentryWriter(_Writer):
    """Writes what the controller decided for one camera; a context manager."""

    def __init__(self, instance: str, camera: str) -> None:
        super().__init__(RingName(instance, camera, names.SENTRY), SENTRY)

    def write(self, snapshot: SentrySnapshot) -> None:
        """Write an entry and wake capture and gateway."""
        self._write({name: getattr(snapshot, name) for name in SentrySnapshot.__slots__})


class StatusWriter(_Writer):
    """Writes how one camera is; a context manager."""

    def __init__(self, instance: str, camera: str) -> None:
        super().__init__(RingName(instance, camera, names.STATUS), STATUS)

    def write(self, status: CameraStatus) -> None:
        """Write an entry."""
        self._write({name: getattr(status, name) for name in CameraStatus.__slots__})


class _Reader:
    """Reads the newest entry of a board. The board need not exist yet."""

    def __init__(self, name: RingName, spec: TableSpec) -> None:
        self._spec = spec
        self._texts = [field.name for field in spec.fields if isinstance(field, Text)]
        self._ring = RingReader(name, spec, lambda _, table: table, Lease)

    def _read(self) -> dict[str, Any] | None:
        lease = self._ring.lease_newest()
        if lease is None:
            self._ring.forget_if_removed()
            return None
        with lease:
            table: TableView = lease._view
            buffer = lease._mapping.buffer
            values = table.read(buffer)
            entry = {
                field.name: value for field, value in zip(self._spec.record, values, strict=True)
            }
            entry.update((name, table.text(buffer, name)) for name in self._texts)
        return entry

    def close(self) -> None:
        """Let go of the board."""
        self._ring.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class SentryReader(_Reader):
    """Reads what the controller decided for one camera. One reader per thread.

    Attributes:
        wakeup: Becomes readable when an entry was written; None for a reader that polls.
    """

    def __init__(self, instance: str, camera: str, consumer: str | None = None) -> None:
        name = RingName(instance, camera, names.SENTRY)
        self.wakeup = Wakeup(name.queue(consumer)) if consumer is not None else None
        super().__init__(name, SENTRY)

    def read(self) -> SentrySnapshot | None:
        """Return the newest entry; None if there is none. It may have expired: compare its time.

        Raises:
            WireError: The entry is damaged.
        """
        entry = self._read()
        if entry is None:
            return None
        try:
            entry["mode"], entry["state"] = SentryMode(entry["mode"]), SentryState(entry["state"])
        except ValueError as error:
            raise WireError(str(error)) from error
        return SentrySnapshot(**entry)

    def close(self) -> None:
        """Let go of board and queue."""
        super().close()
        if self.wakeup is not None:
            self.wakeup.close()


class StatusReader(_Reader):
    """Reads how one camera is. One reader per thread."""

    def __init__(self, instance: str, camera: str) -> None:
        super().__init__(RingName(instance, camera, names.STATUS), STATUS)

    def read(self) -> CameraStatus | None:
        """Return the newest entry; None if there is none. Its heartbeat tells whether capture still lives.

        Raises:
            WireError: The entry is damaged.
        """
        entry = self._read()
        if entry is None:
            return None
        try:
            entry["state"] = CameraState(entry["state"])
        except ValueError as error:
            raise WireError(str(error)) from error
        return CameraStatus(**entry)
