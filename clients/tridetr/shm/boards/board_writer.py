"""Writers of the sentry and status boards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tridetr.errors import ShmError
from tridetr.shm import layout, names
from tridetr.shm.boards.board_table import SENTRY, STATUS, CameraStatus, SentrySnapshot
from tridetr.shm.closing import Closing
from tridetr.shm.layout import Geometry
from tridetr.shm.names import RingName
from tridetr.shm.ring_writer import RingWriter
from tridetr.wire.spec import TableSpec, Text
from tridetr.wire.view import TableView, locate


class _Writer(Closing):
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
        self._tables: dict[int, TableView] = {}
        self._ring = RingWriter(name, geometry)

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._ring.look_after_names()
        index = self._ring.begin()
        if index is None:
            raise ShmError(f"all slots of {self._ring.segment.name} are leased")
        geometry, view = self._ring.segment.geometry, self._ring.segment.view
        start = geometry.slot_offset(index)
        view[start : start + len(self._template)] = self._template
        table = self._tables.get(index)
        if table is None:  # the template has the fields at the same offsets each time
            table = self._tables[index] = locate(self._spec, view, start, geometry.slot_size)
        values = [entry[field.name] for field in self._spec.record]
        table.record.pack_into(view, table.record_at, *values)
        for name, capacity in self._texts.items():
            table.put_text(view, name, entry[name], capacity)
        self._ring.publish(index)

    def close(self) -> None:
        """Close the board; its file stays for readers and for the next writer."""
        self._ring.close()


class SentryWriter(_Writer):
    """Writes the controller's decision for one camera; a context manager."""

    def __init__(self, instance: str, camera: str) -> None:
        super().__init__(RingName(instance, camera, names.SENTRY), SENTRY)

    def write(self, snapshot: SentrySnapshot) -> None:
        """Write an entry and wake capture and gateway."""
        self._write({name: getattr(snapshot, name) for name in SentrySnapshot.__slots__})


class StatusWriter(_Writer):
    """Writes the status of one camera; a context manager."""

    def __init__(self, instance: str, camera: str) -> None:
        super().__init__(RingName(instance, camera, names.STATUS), STATUS)

    def write(self, status: CameraStatus) -> None:
        """Write an entry."""
        self._write({name: getattr(status, name) for name in CameraStatus.__slots__})
