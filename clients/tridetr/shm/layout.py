"""The layout of a ring file, and the protocol that orders what is written to it.

::

    header      whole pages of 64-bit little-endian words, see the constants below
    slots       slot 0, slot 1, … each a finished FlatBuffer
    data        packet rings only (``packets/index.py``): what the slots point to

Locks are open-file-description locks (``locks.py``) on single bytes; they are what orders memory here, no plain load
or store is relied upon, except that an aligned 64-bit word is never seen half-written.

=====================  ==================================================================================
byte                   held
=====================  ==================================================================================
``WRITER_BYTE``        exclusively by the writer for life: two writers are refused
``HEADER_BYTE``        exclusively while a writer makes or takes over the ring, shared while a reader maps it
``DEMAND_BYTE``        shared by each reader for which the writer is to produce (``PacketReader(demand=True)``)
``DEVICE_BYTE``        shared by whoever has the device memory registered with a server
``SLOT_BYTE + i``      exclusively while slot i is written, shared while somebody uses it (a lease)
=====================  ==================================================================================

Writing slot i: take its lock without waiting (refused: take another slot) → ``SEQUENCES[i] = 0`` → write the slot
→ ``LAST_SEQUENCE = s`` → ``SEQUENCES[i] = s`` → unlock → ``NEWEST_SLOT = i + 1`` → wake the consumers. A writer that
dies in between leaves sequence 0: nobody takes the slot.

Leasing: look at ``SUCCESSOR`` and ``NEWEST_SLOT`` (hints: they may be old) → take slot i's lock shared → *now* check
``EPOCH`` and ``SEQUENCES[i]`` → use the slot in place → unlock. What is seen under the lock stays until the unlock.

Device memory (``cuda/ring.py``) belongs to one file and epoch; each slot names it (``shm/device_region.py``), so what
is read of it under the slot's lock is true. When the ring goes on in another file, the writer frees it as soon as it
can take ``DEVICE_BYTE`` and all slots' locks exclusively, and sets all ``SEQUENCES`` to 0 before it does.

A writer that takes over a ring of its own geometry adds 1 to ``EPOCH``, sets all ``SEQUENCES`` to 0 and goes on
counting from ``LAST_SEQUENCE``; it rewrites a slot's table (the FlatBuffer around the payload) only under that slot's
lock. Other geometry makes a file of the next generation, complete before its number goes into ``SUCCESSOR`` of the
old one. A file is never renamed over, truncated or recreated: Triton would silently go on reading the old pages.

The writer looks once a second whether the file's name still leads to it, and goes on in the next generation where a
cleaner removed it. It removes an earlier generation as soon as it can take all its slots' locks exclusively.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tridetr.errors import ShmError

PAGE = 4096
LINE = 64  # bytes of a cache line
MAGIC = int.from_bytes(b"TRIDETR\x01", "little")
LAYOUT_VERSION = 2
MAX_SLOTS = 4096
MAX_FILE_SIZE = 1 << 36

# Bytes that are locked.
WRITER_BYTE = 0
HEADER_BYTE = 1
DEMAND_BYTE = 2
DEVICE_BYTE = 1023  # together with the slots' bytes one range
SLOT_BYTE = 1024

# Numbers of the header's words.
MAGIC_WORD = 0  # written last, when the file is made
VERSION_WORD = 1
KIND_WORD = 2
GENERATION_WORD = 3
SLOTS_WORD = 4
SLOT_SIZE_WORD = 5
FILE_SIZE_WORD = 6
SHAPE_WORD = 7  # 4 words: what the payload depends on (frames: width, height, JPEG capacity)
BOOT_WORD = 11  # 2 words: the machine's boot; CLOCK_MONOTONIC of another boot means nothing
EPOCH_WORD = 13
SUCCESSOR_WORD = 14  # next generation; 0: none
LAST_SEQUENCE_WORD = 15  # highest sequence ever given, over all epochs and generations
NEWEST_SLOT_WORD = 16  # slot + 1; 0: none
WRITER_PID_WORD = 17  # for people
DATA_SIZE_WORD = 18  # bytes behind the slots; their space is taken as it is needed
SEQUENCES = 128  # first of one word per slot; 0: the slot holds nothing

Shape = tuple[int, int, int, int]


def round_to_page(size: int) -> int:
    """Return the size of whole pages that hold ``size`` bytes."""
    return -(-size // PAGE) * PAGE


def boot_words() -> tuple[int, int]:
    """Return the id of the machine's present boot."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    return int(text[:16], 16), int(text[16:], 16)


@dataclass(frozen=True)
class Geometry:
    """What must be equal for a ring to be taken over.

    Attributes:
        kind: Number of the ring's kind (``names.KIND_NUMBERS``).
        slots: Number of slots.
        slot_size: Bytes of one slot: whole pages, or whole cache lines where there is a data area.
        shape: What the payload depends on.
        data_size: Bytes of the data area, whole pages; 0: there is none.
    """

    kind: int
    slots: int
    slot_size: int
    shape: Shape
    data_size: int = 0

    @property
    def header_size(self) -> int:
        """Bytes before the first slot."""
        return round_to_page(8 * (SEQUENCES + self.slots))

    @property
    def data_offset(self) -> int:
        """Where the data area begins in the file."""
        return round_to_page(self.header_size + self.slots * self.slot_size)

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return self.data_offset + self.data_size

    def slot_offset(self, slot: int) -> int:
        """Return where a slot begins in the file."""
        return self.header_size + slot * self.slot_size


def read_geometry(words: memoryview, *, kind: int, generation: int, file_size: int) -> Geometry:
    """Read and check a header that somebody else wrote.

    Args:
        words: The file's words, at least one page of them.
        kind: The kind it must have.
        generation: The generation it must have (from the file's name).
        file_size: Size of the file.

    Raises:
        ShmError: It is not a header of this layout, or does not fit the file.
    """
    if words[MAGIC_WORD] != MAGIC:
        raise ShmError("it is no tridetr ring, or its writer died while making it")
    if words[VERSION_WORD] != LAYOUT_VERSION:
        raise ShmError(f"its layout version is {words[VERSION_WORD]}, this is {LAYOUT_VERSION}")
    if (words[KIND_WORD], words[GENERATION_WORD]) != (kind, generation):
        raise ShmError("its header names another kind or generation than its file name")
    slots, slot_size, data_size = words[SLOTS_WORD], words[SLOT_SIZE_WORD], words[DATA_SIZE_WORD]
    unit = LINE if data_size else PAGE
    if not 1 <= slots <= MAX_SLOTS or slot_size % unit or not 0 < slot_size <= MAX_FILE_SIZE:
        raise ShmError(f"{slots} slots of {slot_size} bytes make no sense")
    if data_size % PAGE or data_size > MAX_FILE_SIZE:
        raise ShmError(f"a data area of {data_size} bytes makes no sense")
    shape = tuple(words[SHAPE_WORD : SHAPE_WORD + 4])
    geometry = Geometry(kind, slots, slot_size, (shape[0], shape[1], shape[2], shape[3]), data_size)
    if geometry.file_size != words[FILE_SIZE_WORD] or geometry.file_size > file_size:
        raise ShmError(f"its header wants {geometry.file_size} bytes, the file has {file_size}")
    return geometry
