"""Writing end of a ring with any payload (protocol: ``layout.py``)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence

from tridetr.errors import ShmError
from tridetr.shm import layout, locks, names, segment
from tridetr.shm.layout import LAST_SEQUENCE_WORD, NEWEST_SLOT_WORD, SEQUENCES, Geometry
from tridetr.shm.locks import apply
from tridetr.shm.names import RingName
from tridetr.shm.segment import Segment
from tridetr.shm.wakeup import Wakers
from tridetr.wire.spec import TableSpec
from tridetr.wire.view import TableView, locate

_log = logging.getLogger("tridetr.shm")

_ATTEMPTS = 100  # generations to try when other processes create files at the same time
_LOOK_NS = 1_000_000_000  # how often a writer checks the names of its ring and queues


class RingWriter:
    """Owns a ring: takes free slots, publishes them and wakes the consumers. Not thread-safe.

    Attributes:
        segment: The mapped file of the current generation.
        epoch: Grows whenever a writer takes the ring over.
    """

    def __init__(
        self,
        name: RingName,
        geometry: Geometry,
        consumers: Sequence[str] | None = None,
        *,
        in_turn: bool = True,
    ) -> None:
        """Take over the ring's newest generation if its geometry matches, otherwise create the next one.

        Args:
            name: The ring.
            geometry: The geometry that its file must have.
            consumers: Consumers to wake; None for all in ``names.CONSUMERS``.
            in_turn: Use the slots in turn, so that the last ones published stay readable. Otherwise reuse as few
                slots as possible, so that large ones stay in the CPU's caches.

        Raises:
            ShmError: Another writer holds the ring, or a system limit is reached.
        """
        self.name = name
        self._in_turn = in_turn
        wanted = names.CONSUMERS[name.kind] if consumers is None else consumers
        self._wakers = Wakers([name.queue(consumer) for consumer in wanted])
        try:
            ring, self._replaced = _take_over(name, geometry)
        except BaseException:
            self._wakers.close()
            raise
        self._look_ns = time.monotonic_ns() + _LOOK_NS
        self._adopt(ring)
        self._free_replaced()

    def _adopt(self, ring: Segment) -> None:
        geometry = ring.geometry
        self.segment = ring
        self.epoch = int(ring.words[layout.EPOCH_WORD])
        self._words = ring.words
        self._descriptor = ring.descriptor
        self._slots = geometry.slots
        self._next = 0
        self._sequence = int(ring.words[layout.LAST_SEQUENCE_WORD])
        bytes_ = [layout.SLOT_BYTE + slot for slot in range(geometry.slots)]
        self._lock = [locks.exclusive(byte) for byte in bytes_]
        self._unlock = [locks.unlock(byte) for byte in bytes_]

    def begin(self) -> int | None:
        """Take a free slot for writing, never the newest one; None if readers hold all others."""
        words = self._words
        newest = words[NEWEST_SLOT_WORD] - 1
        slot = self._next
        for _ in range(self._slots):
            if slot == self._slots:
                slot = 0
            if slot != newest and apply(self._descriptor, self._lock[slot]):
                self._next = slot + 1 if self._in_turn else 0
                words[SEQUENCES + slot] = 0
                return slot
            slot += 1
        return None

    def take(self, slot: int) -> bool:
        """Take a specific slot for writing; return False if a reader holds it."""
        if not apply(self._descriptor, self._lock[slot]):
            return False
        self._words[SEQUENCES + slot] = 0
        return True

    def write_table(self, slot: int, head: bytes, spec: TableSpec) -> TableView:
        """Write the beginning of a taken slot's table, and locate its fields."""
        geometry, view = self.segment.geometry, self.segment.view
        start = geometry.slot_offset(slot)
        view[start : start + len(head)] = head
        return locate(spec, view, start, geometry.slot_size)

    def publish(self, slot: int, sequence: int = 0) -> int:
        """Make a slot taken with :meth:`begin` or :meth:`take` the newest one and wake the consumers.

        Args:
            slot: The slot.
            sequence: Sequence of the same frame in another ring, for a ring that follows it; 0 for the next one.

        Returns:
            The slot's sequence.
        """
        words = self._words
        self._sequence = sequence = sequence or self._sequence + 1
        words[LAST_SEQUENCE_WORD] = sequence
        words[SEQUENCES + slot] = sequence
        apply(self._descriptor, self._unlock[slot])
        words[NEWEST_SLOT_WORD] = slot + 1
        self._wakers.wake(sequence, self.epoch)
        return sequence

    def abandon(self, slot: int) -> None:
        """Release a slot taken with :meth:`begin` or :meth:`take` without publishing it; it stays empty."""
        locks.apply(self._descriptor, self._unlock[slot])

    def look_after_names(self) -> bool:
        """Create the ring or its queues again if their names were removed; free earlier generations without readers.

        Checks at most once a second, so call it before each :meth:`begin`. No slot may be taken.

        Returns:
            Whether the ring has moved to another file.

        Raises:
            ShmError: Another writer has taken the name, or a system limit is reached.
        """
        now_ns = time.monotonic_ns()
        if now_ns < self._look_ns:
            return False
        self._look_ns = now_ns + _LOOK_NS
        self._wakers.follow_names()
        self._free_replaced()
        lost = self.segment
        if lost.has_name():
            return False
        self.renew(lost.geometry)
        _log.warning(
            "%s was removed by another program: the ring continues as %s. Check for RemoveIPC=yes in logind.conf "
            "(`loginctl enable-linger` prevents it) and for programs that clean %s",
            lost.name,
            self.segment.name,
            names.SHM_DIR,
        )
        return True

    def renew(self, geometry: Geometry) -> None:
        """Continue with another geometry, in a file of the next generation. No slot may be taken.

        Raises:
            ShmError: ``/dev/shm`` is too small, or another writer has taken the name; the writer stays unchanged.
        """
        old = self.segment
        fresh = _make_next(self.name, old, geometry, self._sequence)
        self._adopt(fresh)
        old.words[layout.SUCCESSOR_WORD] = fresh.generation
        self._replaced.append(old)
        self._free_replaced()

    def _free_replaced(self) -> None:
        """Remove earlier generations of which no reader holds a lease.

        A reader with a lease may still have to register the file with Triton, by its name.
        """
        for old in self._replaced[:]:
            every_slot = locks.exclusive(layout.SLOT_BYTE, old.geometry.slots)
            if apply(old.descriptor, every_slot):
                old.remove()
                old.give_memory_back()  # a server that has the file registered still maps it
                old.close()
                self._replaced.remove(old)

    def close(self) -> None:
        """Close the ring; its file stays for readers and for the next writer."""
        self._free_replaced()
        for ring in (*self._replaced, self.segment):
            ring.close()
        self._wakers.close()


def _make_next(name: RingName, old: Segment, geometry: Geometry, sequence: int) -> Segment:
    """Create the file of the generation after ``old`` and after all that exist.

    Raises:
        ShmError: Another writer holds one of them, or ``/dev/shm`` is too small.
    """
    for _ in range(_ATTEMPTS):
        least = old.generation + old.has_name()  # if its name was removed, another file may have it
        found = [generation for generation in name.generations() if generation >= least]
        for generation in found:
            if (other := segment.open_writable(name, generation)) is not None:
                other.close()  # left by a writer that is gone
        try:
            return _make(name, _after(name, max([old.generation, *found])), geometry, sequence)
        except FileExistsError:
            continue
    raise ShmError(f"other processes keep creating generations of {name.segment(0)[:-2]}")


def _after(name: RingName, generation: int) -> int:
    """Return the generation after one, without those whose names another user has taken."""
    generation += 1
    while names.is_foreign(name.path(generation)):
        generation += 1
    return generation


def _take_over(name: RingName, geometry: Geometry) -> tuple[Segment, list[Segment]]:
    """Return the ring to write, and the earlier generations, whose locks are held."""
    for _ in range(_ATTEMPTS):
        found = name.generations()
        # Lock all of them: a writer that is moving on to the next generation holds only one.
        held: list[Segment] = []
        try:
            for generation in found:
                if (old := segment.open_writable(name, generation)) is not None:
                    held.append(old)
            if name.generations() != found:
                continue
            newest = held[-1] if held and held[-1].generation == found[-1] else None
            if newest is not None and newest.geometry == geometry:
                _reuse(newest)
                held.remove(newest)
                ring = newest
            else:
                sequence = max((old.words[layout.LAST_SEQUENCE_WORD] for old in held), default=0)
                try:
                    ring = _make(name, _after(name, found[-1] if found else 0), geometry, sequence)
                except FileExistsError:
                    continue
            for old in held:
                old.words[layout.SUCCESSOR_WORD] = ring.generation
            replaced, held = held, []
        finally:
            for old in held:
                old.close()
        _remove_unusable(name, ring.generation, replaced)
        return ring, replaced
    raise ShmError(f"other processes keep creating generations of {name.segment(0)[:-2]}")


def _reuse(ring: Segment) -> None:
    """Start a new epoch in a ring that another writer left behind."""
    words = ring.words
    locks.apply(ring.descriptor, locks.exclusive(layout.HEADER_BYTE))
    words[layout.EPOCH_WORD] += 1
    words[layout.NEWEST_SLOT_WORD] = 0
    words[layout.SUCCESSOR_WORD] = 0
    for slot in range(ring.geometry.slots):
        words[layout.SEQUENCES + slot] = 0
    _sign(words)
    locks.apply(ring.descriptor, locks.unlock(layout.HEADER_BYTE))


def _make(name: RingName, generation: int, geometry: Geometry, sequence: int) -> Segment:
    ring = segment.create(name, generation, geometry)
    words = ring.words
    locks.apply(ring.descriptor, locks.exclusive(layout.HEADER_BYTE))
    words[layout.VERSION_WORD] = layout.LAYOUT_VERSION
    words[layout.KIND_WORD] = geometry.kind
    words[layout.GENERATION_WORD] = generation
    words[layout.SLOTS_WORD] = geometry.slots
    words[layout.SLOT_SIZE_WORD] = geometry.slot_size
    words[layout.FILE_SIZE_WORD] = geometry.file_size
    words[layout.DATA_SIZE_WORD] = geometry.data_size
    for number, value in enumerate(geometry.shape):
        words[layout.SHAPE_WORD + number] = value
    words[layout.EPOCH_WORD] = 1
    words[layout.LAST_SEQUENCE_WORD] = sequence
    _sign(words)
    words[layout.MAGIC_WORD] = layout.MAGIC
    locks.apply(ring.descriptor, locks.unlock(layout.HEADER_BYTE))
    return ring


def _sign(words: memoryview) -> None:
    words[layout.BOOT_WORD], words[layout.BOOT_WORD + 1] = layout.boot_words()
    words[layout.WRITER_PID_WORD] = os.getpid()


def _remove_unusable(name: RingName, generation: int, usable: list[Segment]) -> None:
    """Remove earlier files without a valid ring: their writers died while creating them (except perhaps the last)."""
    known = {ring.generation for ring in usable}
    for old in name.generations():
        if old < generation - 1 and old not in known:
            name.path(old).unlink(missing_ok=True)
