"""Leases: the right to use a slot in place until it is released."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tridetr.shm import layout, locks
from tridetr.shm.segment import Segment

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Region:
    """A ring file, as it is registered with Triton.

    If a ring's region changes, register the new one, and unregister the old one after its last lease.

    Attributes:
        shm_name: Name under ``/dev/shm``, without a slash.
        size_bytes: Size of the whole file.
        generation: Generation of the ring.
        inode: Distinguishes the file from another one that was created under the same name.
    """

    shm_name: str
    size_bytes: int
    generation: int
    inode: int


class Mapping:
    """A mapped generation; its descriptor holds the locks of one reader until the last lease is released.

    Attributes:
        sequences: The sequence of each slot's content, in place.
        share: Commands that take the slots' locks, shared.
        held: Number of leases of each slot; several leases share one lock.
        freed: Functions to call when a slot's last lease has ended.
    """

    def __init__(self, ring: Segment) -> None:
        geometry = ring.geometry
        self.segment = ring
        self.region = Region(ring.name, geometry.file_size, ring.generation, ring.inode)
        self.buffer = ring.view
        self.size = len(ring.view)
        self.words = ring.words
        self.descriptor = ring.descriptor
        self.slots = geometry.slots
        self.sequences = ring.words[layout.SEQUENCES : layout.SEQUENCES + self.slots]
        bytes_ = [layout.SLOT_BYTE + slot for slot in range(self.slots)]
        descriptor = ring.descriptor
        self.share = [locks.shared(byte) for byte in bytes_]
        self.freed = [locks.bind(descriptor, locks.unlock(byte)) for byte in bytes_]
        self.held = [0] * self.slots

    def release(self, slot: int) -> None:
        """End one lease of a slot."""
        self.held[slot] -= 1
        if not self.held[slot]:
            self.freed[slot]()

    def retire(self) -> None:
        """Close as soon as no leases are left."""
        if any(self.held):
            self.freed = [self.retire] * self.slots
        else:
            self.close()

    def close(self) -> None:
        """Close now; all leases end."""
        self.freed = [_nothing] * self.slots
        self.sequences.release()
        self.segment.close()


_RELEASED = -1


def _nothing() -> None:
    """Do nothing: closing the descriptor has released all locks."""


class Lease:
    """One leased slot; a context manager. Nothing of the slot may be used after the release.

    Attributes:
        sequence: Number of the slot's content; grows with each publication, across restarts of the writer.
    """

    __slots__ = ("_mapping", "_slot", "_view", "sequence")

    def __init__(self, mapping: Mapping, slot: int, sequence: int, view: Any) -> None:
        self._mapping = mapping
        self._slot = slot
        self._view = view
        self.sequence = sequence

    @property
    def region(self) -> Region:
        """The ring file that contains the slot."""
        return self._mapping.region

    def release(self) -> None:
        """End the lease; further calls do nothing."""
        slot = self._slot
        if slot >= 0:
            self._slot = _RELEASED
            # `Mapping.release`, inlined, because this runs for every frame.
            mapping = self._mapping
            mapping.held[slot] = left = mapping.held[slot] - 1
            if not left:
                mapping.freed[slot]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
