"""Writer of a camera's encoded packets."""

from __future__ import annotations

import logging
import os
from collections import deque
from dataclasses import dataclass

from tridetr.errors import ShmError
from tridetr.shm import layout, locks, names, segment
from tridetr.shm.closing import Closing
from tridetr.shm.layout import LAST_SEQUENCE_WORD, LINE, Geometry
from tridetr.shm.names import RingName
from tridetr.shm.packets.packet_table import (
    NO_TIME,
    OLDEST,
    PACKET,
    DataArea,
    PacketFlags,
    PacketStamp,
    StreamInfo,
    index_size,
)
from tridetr.shm.ring_writer import RingWriter
from tridetr.wire.view import locate

_log = logging.getLogger("tridetr.shm")

_KEY, _DISCONTINUITY, _CORRUPT = (
    int(flag) for flag in (PacketFlags.KEY, PacketFlags.DISCONTINUITY, PacketFlags.CORRUPT)
)
_STEP = 1 << 20  # bytes by which the ring grows
_RETRY_NS = 60_000_000_000  # until it tries to allocate more memory again
_PER_SECOND = 64  # slots for each second that the ring should hold


@dataclass(slots=True)
class _Stored:
    """A packet in the ring: its bytes are from ``start`` to ``end``."""

    slot: int
    sequence: int
    group: int
    monotonic_ns: int
    start: int
    end: int


class PacketWriter(Closing):
    """Publishes the packets of one camera; a context manager. Not thread-safe.

    The ring drops whole groups of pictures, oldest first. It allocates memory as the stream needs it, up to a limit.

    Example::

        with PacketWriter("default", "hall", seconds=10, max_mib=24) as writer:
            writer.start_stream(info)
            writer.put(data, PacketStamp(monotonic_ns, unix_ns, is_key=True))

    Attributes:
        dropped: Number of packets that did not fit into the ring; after one, it publishes none until a key frame.
    """

    def __init__(
        self,
        instance: str,
        camera: str,
        *,
        seconds: float,
        max_mib: float,
        kind: str = names.PACKETS,
    ) -> None:
        """Take over or create the ring, which starts empty.

        Args:
            instance: Instance of tridetr.
            camera: Name of the camera.
            seconds: How much of the stream the ring should hold [s].
            max_mib: The most memory that it may use for that [MiB].
            kind: ``names.PACKETS``, or ``names.VIEW``: the second stream.

        Raises:
            ShmError: Another writer holds the ring, or a system limit is reached.
        """
        template = PACKET.build({})
        table = locate(PACKET, memoryview(template), 0, len(template))
        self._template = template
        self._record, self._record_at = table.record, table.record_at  # the same in each slot
        slots = min(layout.MAX_SLOTS, max(_PER_SECOND, round(seconds * _PER_SECOND)))
        geometry = Geometry(
            names.KIND_NUMBERS[kind],
            slots,
            -(-len(template) // LINE) * LINE,
            (0, 0, 0, 0),
            index_size(slots) + layout.round_to_page(round(max_mib * (1 << 20))),
        )
        self._span_ns = round(seconds * 1e9)
        self._info = b""
        self._codec = 0
        self.dropped = 0
        self._ring = RingWriter(RingName(instance, camera, kind), geometry)
        try:
            self._start_over()
        except BaseException:
            self._ring.close()
            raise

    def _start_over(self) -> None:
        """Start with an empty ring."""
        ring = self._ring.segment
        self._words, self._view = ring.words, ring.view
        self._first_slot, self._slot_size = ring.geometry.slot_offset(0), ring.geometry.slot_size
        self._data = DataArea(ring.words, ring.geometry)
        self._live: deque[_Stored] = deque()  # in the order of their sequences
        self._pinned: list[_Stored] = []  # dropped, but still held by a reader
        self._free: deque[int] = deque()  # locked already: publishing costs one system call less
        self._group = 0
        self._dropping = False
        self._missing = True
        self._generation = 0
        self._at = self._limit = self._data.start
        self._retry_ns = 0  # when to try to allocate memory again; 0 if it never failed
        segment.allocate(
            ring.descriptor, ring.name, ring.geometry.data_offset, index_size(ring.geometry.slots)
        )
        self._data.words[OLDEST] = self._words[LAST_SEQUENCE_WORD] + 1
        for slot in range(ring.geometry.slots):
            stored = _Stored(slot, 0, 0, 0, 0, 0)
            if not self._release(stored):  # a reader still uses what the last writer left there
                stored.start, stored.end = self._extent(slot)
                self._pinned.append(stored)

    def _extent(self, slot: int) -> tuple[int, int]:
        """Return start and end of the bytes that an earlier writer stored for a slot; (0, 0) if there are none."""
        geometry, view = self._ring.segment.geometry, self._ring.segment.view
        try:
            table = locate(PACKET, view, geometry.slot_offset(slot), geometry.slot_size)
        except ShmError:
            return 0, 0
        *_, offset, info_offset, size, _, _, _ = table.read(view)
        return info_offset or offset, offset + size

    def start_stream(self, info: StreamInfo) -> None:
        """Set the parameters of the following packets; call it before the first one and whenever they change.

        Raises:
            ShmError: The parameter sets are too long.
        """
        self._info, self._codec = info.pack(), int(info.codec)
        self._generation = 0  # counts from the next packet

    def put(self, data: bytes | memoryview, stamp: PacketStamp) -> int | None:
        """Publish a packet and wake the consumers.

        Args:
            data: Its bytes.
            stamp: The packet's metadata.

        Returns:
            The packet's sequence; None if it did not fit, or depends on one that did not.

        Raises:
            ShmError: The ring was removed, and another writer has its name, or ``/dev/shm`` is too small.
        """
        if self._ring.look_after_names():
            self._start_over()
        if self._dropping and not stamp.is_key:
            return None
        size = len(data)
        sequence = int(self._words[LAST_SEQUENCE_WORD]) + 1
        first = not self._generation
        if stamp.is_key:
            self._group = sequence
        elif first:
            self._group = 0
        info = self._info if first or stamp.is_key else b""
        info_space = -(-len(info) // LINE) * LINE
        slot, start = self._place(info_space + size, stamp.capture_monotonic_ns)
        if slot is None:
            self.dropped += 1
            self._dropping = self._missing = True
            return None
        end = -(-(start + info_space + size) // LINE) * LINE
        if first:
            self._generation = sequence
        self._dropping = False
        view = self._view
        if info:
            view[start : start + len(info)] = info
        bytes_at = start + info_space
        view[bytes_at : bytes_at + size] = data
        at = self._first_slot + slot * self._slot_size
        view[at : at + len(self._template)] = self._template
        self._record.pack_into(
            view,
            at + self._record_at,
            self._generation,
            NO_TIME if stamp.pts is None else stamp.pts,
            NO_TIME if stamp.dts is None else stamp.dts,
            NO_TIME if stamp.duration is None else stamp.duration,
            stamp.capture_monotonic_ns,
            stamp.capture_unix_ns,
            bytes_at,
            start if info else 0,
            size,
            len(info),
            self._codec,
            _KEY * stamp.is_key
            + _DISCONTINUITY * (stamp.discontinuity or self._missing)
            + _CORRUPT * stamp.corrupt,
        )
        self._missing = False
        self._data.groups[slot] = self._group
        self._data.times[slot] = stamp.capture_monotonic_ns
        self._live.append(
            _Stored(slot, sequence, self._group, stamp.capture_monotonic_ns, start, end)
        )
        self._at = end
        return self._ring.publish(slot)

    def is_wanted(self) -> bool:
        """Return whether a reader wants the stream (``PacketReader(demand=True)``).

        The request of a reader that dies ends: the kernel releases its lock.

        Raises:
            ShmError: The ring was removed, and another writer has its name, or ``/dev/shm`` is too small.
        """
        if self._ring.look_after_names():
            self._start_over()
        return locks.is_held(self._ring.segment.descriptor, layout.DEMAND_BYTE)

    def clear(self) -> None:
        """Drop all packets and free their memory; if a reader is copying one, a later call frees the memory."""
        while self._live:
            self._forget_group()
        self._unpin()
        self._missing = True
        if not self._pinned:
            self._ring.segment.give_memory_back(self._data.start)
            self._at = self._limit = self._data.start

    def close(self) -> None:
        """Close the ring; its file stays for readers and for the next writer."""
        self._ring.close()

    def _place(self, size: int, now_ns: int) -> tuple[int | None, int]:
        """Find room for a packet and take a slot for it; drop old groups if necessary.

        Returns:
            The slot (None if the packet does not fit), and the offset at which its bytes begin.
        """
        live, free, start = self._live, self._free, self._at
        end = start + size
        # Fast path: nearly always there is room, and a free slot.
        is_free = not (live and start <= live[0].start < end)
        if is_free and end <= self._limit and free and not self._pinned:
            return free.popleft(), start
        room = self._find_room(size, now_ns)
        if room is None:
            return None, 0
        while not free and live:
            self._forget_group()
        return (free.popleft(), room) if free else (None, 0)

    def _find_room(self, size: int, now_ns: int) -> int | None:
        if size > self._data.end - self._data.start:
            return None
        self._unpin()
        live = self._live
        ahead = start = self._at  # the oldest packets are here and behind
        for _ in range(2 + 2 * len(self._pinned)):
            if start + size > self._limit and not self._grow(start + size, now_ns):
                if size > self._limit - self._data.start:
                    return None
                while live and live[0].start >= ahead:
                    self._forget_group()
                ahead = start = self._data.start
            while live and ahead <= live[0].start < start + size:
                self._forget_group()
            obstacle = max(
                (
                    held.end
                    for held in self._pinned
                    if start < held.end and held.start < start + size
                ),
                default=None,
            )
            if obstacle is None:
                return start
            start = obstacle
        return None

    def _grow(self, wanted: int, now_ns: int) -> bool:
        """Allocate more memory if the ring holds less than it should; return False if it must wrap around."""
        held_ns = now_ns - self._live[0].monotonic_ns if self._live else 0
        if now_ns < self._retry_ns or wanted > self._data.end or held_ns >= self._span_ns:
            return False
        limit = min(self._data.end, max(wanted, self._limit + _STEP))
        try:
            os.posix_fallocate(self._ring.segment.descriptor, self._limit, limit - self._limit)
        except OSError as error:
            if not self._retry_ns:
                self._warn_full(error, held_ns)
            self._retry_ns = now_ns + _RETRY_NS
            return False
        self._limit = limit
        return True

    def _warn_full(self, error: OSError, held_ns: int) -> None:
        _log.warning(
            "%s stays at %d MiB, which is %.1f s of this stream: %s. Enlarge %s, or reduce packets.max_mib",
            self._ring.segment.name,
            (self._limit - self._data.start) >> 20,
            held_ns / 1e9,
            error.strerror,
            names.SHM_DIR,
        )

    def _forget_group(self) -> None:
        """Drop the oldest group; if that is the current one, larger than the ring, drop only its oldest packet."""
        live, group = self._live, self._live[0].group
        is_current = group == self._group
        gone = [live.popleft()]
        while live and not is_current and live[0].group == group:
            gone.append(live.popleft())
        if is_current:
            self._group = 0  # decoding cannot start in what is left of it
        self._data.words[OLDEST] = gone[-1].sequence + 1
        self._pinned += [stored for stored in gone if not self._release(stored)]

    def _release(self, stored: _Stored) -> bool:
        """Free the slot of a dropped packet, and keep it locked; return False if a reader holds it."""
        if not self._ring.take(stored.slot):
            return False
        self._free.append(stored.slot)
        return True

    def _unpin(self) -> None:
        if self._pinned:
            self._pinned = [stored for stored in self._pinned if not self._release(stored)]
