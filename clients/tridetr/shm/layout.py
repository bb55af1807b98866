"""Layout of a ring file, and the locking protocol of its writer and readers.

::

    header      whole pages of 64-bit little-endian words, see the constants below
    slots       slot 0, slot 1, … each a finished FlatBuffer
    data        packet rings only (``packets/packet_table.py``): what the slots point to

Locks are open-file-description locks (``locks.py``) on single bytes. They provide the memory ordering: the protocol
relies on plain loads and stores only in that an aligned 64-bit word is never seen half-written.

=====================  ==================================================================================
byte                   held
=====================  ==================================================================================
``WRITER_BYTE``        exclusively by the writer for its lifetime: a second writer is refused
``HEADER_BYTE``        exclusively while a writer creates or takes over the ring, shared while a reader maps it
``DEMAND_BYTE``        shared by each reader that requests the stream (``PacketReader(demand=True)``)
``DEVICE_BYTE``        shared by each process that has the device memory registered with a server
``SLOT_BYTE + i``      exclusively while slot i is written (in a packet ring, also while it is free), shared while a
                       reader uses it (a lease)
=====================  ==================================================================================

Writing slot i: take its lock without waiting (refused: take another slot) → ``SEQUENCES[i] = 0`` → write the slot
→ ``LAST_SEQUENCE = s`` → ``SEQUENCES[i] = s`` → unlock → ``NEWEST_SLOT = i + 1`` → wake the consumers. A writer that
dies in between leaves sequence 0, so that no reader takes the slot.

Leasing: read ``SUCCESSOR`` and ``NEWEST_SLOT`` (hints, which may be stale) → take slot i's lock shared → *then* check
``EPOCH`` and ``SEQUENCES[i]`` → use the slot in place → unlock. What is read under the lock is valid until the unlock.

Device memory (``cuda/ring.py``) belongs to one file and epoch; each slot describes it (``shm/device_region.py``), so
the description is valid under the slot's lock. When the ring moves to another file, the writer frees the memory as soon
as it can take ``DEVICE_BYTE`` and all slots' locks exclusively, and sets all ``SEQUENCES`` to 0 before it does.

A writer that takes over a ring of its own geometry increments ``EPOCH``, sets all ``SEQUENCES`` to 0 and continues
counting from ``LAST_SEQUENCE``; it rewrites a slot's table (the FlatBuffer around the payload) only under that slot's
lock. For a different geometry it creates a file of the next generation, which is complete before its number is written
to ``SUCCESSOR`` of the old one. A file is never renamed over, truncated or recreated, because Triton would silently
keep reading the old pages.

Once a second, the writer checks that the file's name still refers to it, and moves to the next generation if another
program has removed it. It removes an earlier generation as soon as it can take all its slots' locks exclusively.
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
DEVICE_BYTE = 1023  # directly before the slots' bytes: one range
SLOT_BYTE = 1024

# Numbers of the header's words.
MAGIC_WORD = 0  # written last, when the file is created
VERSION_WORD = 1
KIND_WORD = 2
GENERATION_WORD = 3
SLOTS_WORD = 4
SLOT_SIZE_WORD = 5
FILE_SIZE_WORD = 6
SHAPE_WORD = 7  # 4 words: what the payload depends on (frames: width, height, JPEG capacity)
BOOT_WORD = 11  # 2 words: the machine's boot ID; CLOCK_MONOTONIC of another boot is meaningless
EPOCH_WORD = 13
SUCCESSOR_WORD = 14  # next generation; 0: none
LAST_SEQUENCE_WORD = 15  # highest sequence ever assigned, over all epochs and generations
NEWEST_SLOT_WORD = 16  # slot + 1; 0: none
WRITER_PID_WORD = 17  # for messages
DATA_SIZE_WORD = 18  # bytes of the data area, whose memory is allocated as needed
SEQUENCES = 128  # first of one word per slot; 0: the slot holds nothing

Shape = tuple[int, int, int, int]


def round_to_page(size: int) -> int:
    """Round a size up to whole pages [bytes].

    >>> round_to_page(5000)
    8192
    """
    return -(-size // PAGE) * PAGE


def boot_words() -> tuple[int, int]:
    """Return the ID of the machine's current boot, as two 64-bit words."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    return int(text[:16], 16), int(text[16:], 16)


@dataclass(frozen=True)
class Geometry:
    """Dimensions of a ring file; a writer takes over only a ring whose dimensions are equal.

    Attributes:
        kind: Number of the ring's kind (``names.KIND_NUMBERS``).
        slots: Number of slots.
        slot_size: Bytes of one slot: whole pages, or whole cache lines where there is a data area.
        shape: What the payload depends on.
        data_size: Bytes of the data area, whole pages; 0 if there is none.
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
        """Offset of the data area in the file."""
        return round_to_page(self.header_size + self.slots * self.slot_size)

    @property
    def file_size(self) -> int:
        """Size of the whole file [bytes]."""
        return self.data_offset + self.data_size

    def slot_offset(self, slot: int) -> int:
        """Return the offset of a slot in the file."""
        return self.header_size + slot * self.slot_size


def read_geometry(words: memoryview, *, kind: int, generation: int, file_size: int) -> Geometry:
    """Read and validate the header of a file that may have any content.

    Args:
        words: The file's words, at least one page of them.
        kind: Expected kind.
        generation: Expected generation, from the file's name.
        file_size: Size of the file [bytes].

    Raises:
        ShmError: The header has another layout, or does not match the file.
    """
    if words[MAGIC_WORD] != MAGIC:
        raise ShmError("not a tridetr ring, or its writer died while creating it")
    if words[VERSION_WORD] != LAYOUT_VERSION:
        raise ShmError(f"its layout version is {words[VERSION_WORD]}, not {LAYOUT_VERSION}")
    if (words[KIND_WORD], words[GENERATION_WORD]) != (kind, generation):
        raise ShmError("its header names another kind or generation than its file name")
    slots, slot_size, data_size = words[SLOTS_WORD], words[SLOT_SIZE_WORD], words[DATA_SIZE_WORD]
    unit = LINE if data_size else PAGE
    if not 1 <= slots <= MAX_SLOTS or slot_size % unit or not 0 < slot_size <= MAX_FILE_SIZE:
        raise ShmError(f"its header is invalid: {slots} slots of {slot_size} bytes")
    if data_size % PAGE or data_size > MAX_FILE_SIZE:
        raise ShmError(f"its header is invalid: a data area of {data_size} bytes")
    shape = tuple(words[SHAPE_WORD : SHAPE_WORD + 4])
    geometry = Geometry(kind, slots, slot_size, (shape[0], shape[1], shape[2], shape[3]), data_size)
    if geometry.file_size != words[FILE_SIZE_WORD] or geometry.file_size > file_size:
        raise ShmError(f"its header requires {geometry.file_size} bytes, the file has {file_size}")
    return geometry
