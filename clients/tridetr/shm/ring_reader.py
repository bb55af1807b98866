"""The reading end of a ring, whatever its payload (protocol: ``layout.py``)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

from tridetr.errors import ShmError
from tridetr.shm import layout, segment
from tridetr.shm.lease import Lease, Mapping
from tridetr.shm.names import RingName
from tridetr.wire.spec import TableSpec
from tridetr.wire.view import TableView, locate

_RETRIES = 4  # the writer overtook us: it is in the slot we wanted, and a newer one is there

ViewT = TypeVar("ViewT")  # what is kept per slot while the ring stays as it is
LeaseT = TypeVar("LeaseT", bound=Lease)


class RingReader(Generic[ViewT, LeaseT]):
    """Leases slots of a ring, and follows it over restarts and generations. Not for several threads at once.

    The ring need not exist yet.

    Attributes:
        damaged: How many slots were refused because they held no valid table.
        last_damage: Why the last one was.
    """

    def __init__(
        self,
        name: RingName,
        spec: TableSpec,
        make_view: Callable[[Mapping, TableView], ViewT],
        make_lease: Callable[[Mapping, int, int, ViewT], LeaseT],
    ) -> None:
        """Make a reader.

        Args:
            name: The ring.
            spec: The table in its slots.
            make_view: Makes what is kept per slot; raises ShmError if the slot makes no sense.
            make_lease: Makes a lease of (mapping, slot, sequence, view).
        """
        self.name = name
        self._spec = spec
        self._make_view = make_view
        self._make_lease = make_lease
        self._mapping: Mapping | None = None
        self._epoch = 0
        self._views: list[ViewT | None] = []
        self.damaged = 0
        self.last_damage: ShmError | None = None

    def newest(self, after: int) -> LeaseT | None:
        """Lease the newest slot whose sequence is greater than ``after``; None if there is none."""
        mapping = self.mapping()
        if mapping is None:
            return None
        words = mapping.words
        if words[layout.LAST_SEQUENCE_WORD] < after:
            after = 0  # the ring was removed and made again: its sequences began anew
        for _ in range(_RETRIES):
            slot = words[layout.NEWEST_SLOT_WORD] - 1
            if not 0 <= slot < mapping.slots or words[layout.SEQUENCES + slot] <= after:
                return None
            try:
                lease = self._lease(mapping, slot, after)
            except ShmError as error:
                self._note_damage(error)
                return None
            if lease is not None:
                return lease
        return None

    def next(self, after: int) -> LeaseT | None:
        """Lease the oldest slot still there whose sequence is greater than ``after``; None if there is none."""
        mapping = self.mapping()
        if mapping is None:
            return None
        words = mapping.words
        if words[layout.LAST_SEQUENCE_WORD] < after:
            after = 0
        tries = _RETRIES
        while tries:
            sequences = words[layout.SEQUENCES : mapping.sequences_end].tolist()
            wanted = min((sequence for sequence in sequences if sequence > after), default=0)
            if not wanted:
                return None
            try:
                lease = self._lease(mapping, sequences.index(wanted), after)
            except ShmError as error:
                self._note_damage(error)
                after = wanted
                continue
            if lease is not None:
                if lease.sequence == wanted:
                    return lease
                lease.release()  # overwritten meanwhile: another slot may be the oldest now
            tries -= 1
        return None

    def mapping(self) -> Mapping | None:
        """Return the mapping of the ring's newest generation; None if there is no usable ring."""
        mapping = self._mapping
        if mapping is not None:
            if os.lseek(mapping.descriptor, 0, os.SEEK_END) < mapping.size:
                self._forget()  # somebody truncated it: touching it would be a SIGBUS
            elif not mapping.words[layout.SUCCESSOR_WORD]:
                return mapping
        return self._find() or self._mapping

    def forget_if_removed(self) -> bool:
        """Let go of a ring whose file was removed, so that the next lease looks for a new one.

        Worth a call when nothing has come for a while.
        """
        mapping = self._mapping
        if mapping is None or os.fstat(mapping.descriptor).st_nlink:
            return False
        self._forget()
        return True

    def close(self) -> None:
        """End all leases and let go of the ring."""
        mapping = self._mapping
        self._forget()
        if mapping is not None:
            mapping.close()

    def _find(self) -> Mapping | None:
        for generation in reversed(self.name.generations()):
            if self._mapping is not None and generation <= self._mapping.region.generation:
                return None
            ring = segment.open_readable(self.name, generation)
            if ring is not None:
                self._forget()
                self._mapping = Mapping(ring)
                self._views = [None] * self._mapping.slots
                return self._mapping
        return None

    def _forget(self) -> None:
        if self._mapping is not None:
            self._mapping.retire()
        self._mapping = None
        self._views = []
        self._epoch = 0

    def _lease(self, mapping: Mapping, slot: int, after: int) -> LeaseT | None:
        if not mapping.acquire(slot):
            return None
        words = mapping.words
        # From here to the release the writer cannot touch the slot: what is seen now is true.
        sequence = words[layout.SEQUENCES + slot]
        if sequence <= after:
            mapping.release(slot)
            return None
        epoch = words[layout.EPOCH_WORD]
        if epoch != self._epoch:
            self._epoch = epoch
            self._views = [None] * mapping.slots
        view = self._views[slot]
        if view is None:
            geometry = mapping.segment.geometry
            try:
                start = geometry.slot_offset(slot)
                table = locate(self._spec, mapping.buffer, start, geometry.slot_size)
                self._views[slot] = view = self._make_view(mapping, table)
            except ShmError:
                mapping.release(slot)
                raise
        return self._make_lease(mapping, slot, sequence, view)

    def _note_damage(self, error: ShmError) -> None:
        self.damaged += 1
        self.last_damage = error
