"""Leases: the right to use a slot in place until it is released."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tridetr.shm import layout, locks
from tridetr.shm.segment import Segment

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class RegionKey:
    """A ring file as Triton knows it. Another key: register the new one, unregister the old one after its last lease.

    Attributes:
        shm_name: Name under ``/dev/shm``, without a slash.
        size_bytes: Size of the whole file.
        generation: Generation of the ring.
        inode: Differs if somebody removed the file and made it again under the same name.
    """

    shm_name: str
    size_bytes: int
    generation: int
    inode: int


class Mapping:
    """A mapped generation; its descriptor holds the locks of one reader until the last lease is released.

    Attributes:
        lock: Take the slots' locks; raise ``locks.Refused`` while a slot is being written.
        held: Leases of each slot: a lock knows no counts, so several leases are one lock.
    """

    def __init__(self, ring: Segment) -> None:
        geometry = ring.geometry
        self.segment = ring
        self.region = RegionKey(ring.name, geometry.file_size, ring.generation, ring.inode)
        self.buffer = ring.view
        self.size = len(ring.view)
        self.words = ring.words
        self.descriptor = ring.descriptor
        self.slots = geometry.slots
        self.sequences_end = layout.SEQUENCES + self.slots
        bytes_ = [layout.SLOT_BYTE + slot for slot in range(self.slots)]
        descriptor = ring.descriptor
        self.lock = [locks.bind(descriptor, locks.shared(byte)) for byte in bytes_]
        self._unlock = [locks.bind(descriptor, locks.unlock(byte)) for byte in bytes_]
        self.held = [0] * self.slots
        self._retired = False
        self._open = True

    def release(self, slot: int) -> None:
        """End one lease of a slot."""
        held = self.held
        held[slot] = count = held[slot] - 1
        if not count:
            if self._open:
                self._unlock[slot]()
            if self._retired:
                self.retire()

    def retire(self) -> None:
        """Close as soon as no lease is left."""
        self._retired = True
        if not any(self.held):
            self.close()

    def close(self) -> None:
        """Close now; all leases end."""
        self._open = False
        self.segment.close()


class Lease:
    """One leased slot; a context manager. Nothing of the slot may be used after the release.

    Attributes:
        sequence: Number of the slot's content; grows by 1 with each publication of the ring, for ever.
    """

    __slots__ = ("_held", "_mapping", "_slot", "_view", "sequence")

    def __init__(self, mapping: Mapping, slot: int, sequence: int, view: Any) -> None:
        self._mapping = mapping
        self._slot = slot
        self._view = view
        self._held = True
        self.sequence = sequence

    @property
    def region(self) -> RegionKey:
        """The ring file that it lies in."""
        return self._mapping.region

    def release(self) -> None:
        """End the lease; further calls do nothing."""
        if self._held:
            self._held = False
            self._mapping.release(self._slot)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
