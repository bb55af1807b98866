"""Leases: the right to use a slot in place until it is released."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

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
    """A mapped generation; its descriptor holds the locks of one reader until the last lease is released."""

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
        self._lock = [locks.shared(byte) for byte in bytes_]
        self._unlock = [locks.unlock(byte) for byte in bytes_]
        self._held = [0] * self.slots  # a lock knows no counts: two leases of one slot are one lock
        self._leases = 0
        self._retired = False

    def acquire(self, slot: int) -> bool:
        """Lease a slot; False: it is being written."""
        held = self._held
        if not held[slot] and not locks.apply(self.descriptor, self._lock[slot]):
            return False
        held[slot] += 1
        self._leases += 1
        return True

    def release(self, slot: int) -> None:
        """End one lease of a slot."""
        held = self._held
        held[slot] -= 1
        self._leases -= 1
        if not held[slot] and self.segment.descriptor >= 0:
            locks.apply(self.descriptor, self._unlock[slot])
        if self._retired and not self._leases:
            self.close()

    def retire(self) -> None:
        """Close as soon as no lease is left."""
        self._retired = True
        if not self._leases:
            self.close()

    def close(self) -> None:
        """Close now; all leases end."""
        self.segment.close()


class Lease:
    """One leased slot; a context manager. Nothing of the slot may be used after the release.

    Attributes:
        sequence: Number of the slot's content; grows by 1 with each publication of the ring, for ever.
        region: The ring file that it lies in.
    """

    __slots__ = ("_buffer", "_mapping", "_slot", "region", "sequence")

    def __init__(self, mapping: Mapping, slot: int, sequence: int) -> None:
        self._mapping: Mapping | None = mapping
        self._slot = slot
        self._buffer = mapping.buffer
        self.region = mapping.region
        self.sequence = sequence

    def release(self) -> None:
        """End the lease; further calls do nothing."""
        mapping = self._mapping
        if mapping is not None:
            self._mapping = None
            mapping.release(self._slot)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
