"""Reading end of a ring with any payload (protocol: ``layout.py``)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from typing import Generic, TypeVar

from tridetr.errors import ShmError
from tridetr.shm import locks, segment
from tridetr.shm.closing import Closing
from tridetr.shm.layout import (
    EPOCH_WORD,
    LAST_SEQUENCE_WORD,
    NEWEST_SLOT_WORD,
    SUCCESSOR_WORD,
    WRITER_BYTE,
)
from tridetr.shm.lease import Lease, Mapping, Region
from tridetr.shm.locks import Refused
from tridetr.shm.names import RingName
from tridetr.shm.wakeup import Wakeup
from tridetr.wire.spec import TableSpec
from tridetr.wire.view import TableView, locate

_lseek, _END = os.lseek, os.SEEK_END
_fcntl, _SETLK = fcntl.fcntl, fcntl.F_OFD_SETLK
_RETRIES = 4  # if the writer overtakes: it has taken the wanted slot, and published a newer one

ViewT = TypeVar("ViewT")  # what is cached per slot until the ring changes
LeaseT = TypeVar("LeaseT", bound=Lease)


class RingReader(Closing, Generic[ViewT, LeaseT]):
    """Leases slots of a ring, and follows it across restarts and generations. Not thread-safe.

    The ring does not have to exist yet.

    Attributes:
        wakeup: Becomes readable when a slot was published; None for a reader that polls.
        damaged: Number of slots that were rejected because they held no valid table.
        damage: Why the last of them was rejected.
    """

    def __init__(
        self,
        name: RingName,
        consumer: str | None,
        spec: TableSpec,
        make_view: Callable[[Mapping, TableView], ViewT],
        make_lease: Callable[[Mapping, int, int, ViewT], LeaseT],
    ) -> None:
        """Create a reader.

        Args:
            name: The ring.
            consumer: The consumer whose wake-up queue is opened (``names.CONSUMERS``); None for a reader that polls.
            spec: The table in its slots.
            make_view: Creates what is cached per slot; raises ShmError if the slot is invalid.
            make_lease: Creates a lease from (mapping, slot, sequence, view); raises ShmError likewise.

        Raises:
            ShmError: A system limit is reached, or a name is not allowed.
        """
        self.wakeup = None if consumer is None else Wakeup(name.queue(consumer))
        self._name = name
        self._spec = spec
        self._make_view = make_view
        self._make_lease = make_lease
        self._mapping: Mapping | None = None
        self._epoch = 0
        self._restarted = False  # the next ring found counts its sequences from 1
        self._views: list[ViewT | None] = []
        self.damaged = 0
        self.damage: ShmError | None = None

    def lease_newest(self, after: int = 0) -> LeaseT | None:
        """Lease the newest slot whose sequence is greater than ``after``; None if there is none."""
        # Inlined fast path of nearly every frame: nothing has changed since the last lease. Otherwise, search.
        mapping = self._mapping
        if mapping is not None and _lseek(mapping.descriptor, 0, _END) >= mapping.size:
            words, sequences, held = mapping.words, mapping.sequences, mapping.held
            slot = words[NEWEST_SLOT_WORD] - 1
            if (
                0 <= slot < mapping.slots
                and sequences[slot] > after
                and not held[slot]
                and not words[SUCCESSOR_WORD]
            ):
                try:
                    _fcntl(mapping.descriptor, _SETLK, mapping.share[slot])
                except Refused:
                    return self._search_newest(after)
                held[slot] = 1
                sequence = sequences[slot]  # valid from here to the release
                view = self._views[slot]
                if sequence > after and view is not None and words[EPOCH_WORD] == self._epoch:
                    try:
                        return self._make_lease(mapping, slot, sequence, view)
                    except ShmError as error:
                        mapping.release(slot)
                        self._note_damage(error)
                        return None
                mapping.release(slot)
        return self._search_newest(after)

    def _search_newest(self, after: int) -> LeaseT | None:
        mapping = self._current()
        if mapping is None:
            return None
        words = mapping.words
        if self._restarted or words[LAST_SEQUENCE_WORD] < after:
            after = 0  # the ring was removed and created again: its sequences restarted
        for _ in range(_RETRIES):
            slot = words[NEWEST_SLOT_WORD] - 1
            if not 0 <= slot < mapping.slots or mapping.sequences[slot] <= after:
                return None
            try:
                lease = self._lease(mapping, slot, after)
            except ShmError as error:
                self._note_damage(error)
                return None
            if lease is not None:
                return lease
        return None

    def lease_next(self, after: int = 0) -> LeaseT | None:
        """Lease the oldest remaining slot whose sequence is greater than ``after``; None if there is none."""
        mapping = self._current()
        if mapping is None:
            return None
        words = mapping.words
        if self._restarted or words[LAST_SEQUENCE_WORD] < after:
            after = 0
        tries = _RETRIES
        while tries:
            sequences = mapping.sequences.tolist()
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
                lease.release()  # overwritten in the meantime: another slot may be the oldest now
            tries -= 1
        return None

    def is_written(self) -> bool:
        """Return whether a process currently has the ring open for writing."""
        mapping = self._current()
        return mapping is not None and locks.is_held(mapping.descriptor, WRITER_BYTE)

    @property
    def region(self) -> Region | None:
        """The ring file of the newest generation; None while there is no ring."""
        mapping = self._current()
        return mapping.region if mapping else None

    def forget_if_removed(self) -> bool:
        """Close the ring if its file was removed or replaced, so that the next lease looks for a new one.

        The queue is reopened likewise. Call it about once a second, or when nothing has arrived for a while.

        Returns:
            Whether the ring was closed.

        Raises:
            ShmError: The queue was removed, and a system limit prevents a new one.
        """
        mapping = self._mapping
        removed = mapping is not None and not mapping.segment.has_name()
        if removed:
            self._forget()
            self._restarted = True
        if self.wakeup is not None:
            self.wakeup.follow_name()
        return removed

    def close(self) -> None:
        """End all leases, and close the ring and the queue."""
        mapping = self._mapping
        self._forget()
        if mapping is not None:
            mapping.close()
        if self.wakeup is not None:
            self.wakeup.close()

    def _current(self) -> Mapping | None:
        mapping = self._mapping
        return self._find() if mapping is None or self._must_move(mapping) else mapping

    def _must_move(self, mapping: Mapping) -> bool:
        """Return whether the ring has moved to another file, or this one must not be accessed any more."""
        if _lseek(mapping.descriptor, 0, _END) < mapping.size:
            self._forget()  # truncated by another program: accessing it would raise SIGBUS
            return True
        return bool(mapping.words[SUCCESSOR_WORD])

    def _find(self) -> Mapping | None:
        """Map the newest generation; keep the current one if no newer one can be used."""
        present = self._mapping
        is_missing = present is None
        found = self._name.generations(refuse_foreign=is_missing, may_be_old=is_missing)
        for generation in reversed(found):
            if present is not None and generation <= present.region.generation:
                break
            ring = segment.open_readable(self._name, generation)
            if ring is not None:
                self._forget()
                self._mapping = Mapping(ring)
                self._views = [None] * self._mapping.slots
                break
        return self._mapping

    def _forget(self) -> None:
        if self._mapping is not None:
            self._mapping.retire()
        self._mapping = None
        self._views = []
        self._epoch = 0

    def _lease(self, mapping: Mapping, slot: int, after: int) -> LeaseT | None:
        held = mapping.held
        leases = held[slot]
        if not leases:
            try:
                _fcntl(mapping.descriptor, _SETLK, mapping.share[slot])
            except Refused:
                return None
        held[slot] = leases + 1
        # From here to the release, the writer cannot change the slot: what is read now is valid.
        sequence = mapping.sequences[slot]
        if sequence <= after:
            mapping.release(slot)
            return None
        if mapping.words[EPOCH_WORD] != self._epoch:
            self._epoch = mapping.words[EPOCH_WORD]
            self._views = [None] * mapping.slots
        try:
            view = self._views[slot]
            if view is None:
                view = self._views[slot] = self._look(mapping, slot)
            return self._make_lease(mapping, slot, sequence, view)
        except ShmError:
            mapping.release(slot)
            raise

    def _look(self, mapping: Mapping, slot: int) -> ViewT:
        geometry = mapping.segment.geometry
        start = geometry.slot_offset(slot)
        table = locate(self._spec, mapping.buffer, start, geometry.slot_size)
        view = self._make_view(mapping, table)
        self._restarted = False
        return view

    def _note_damage(self, error: ShmError) -> None:
        self.damaged += 1
        self.damage = error
