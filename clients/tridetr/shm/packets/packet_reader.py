"""Reader of a camera's encoded packets."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tridetr.errors import ShmError
from tridetr.shm import locks, names
from tridetr.shm.layout import DEMAND_BYTE, LAST_SEQUENCE_WORD
from tridetr.shm.lease import Lease, Mapping
from tridetr.shm.names import RingName
from tridetr.shm.packets.packet_table import (
    NO_TIME,
    OLDEST,
    PACKET,
    DataArea,
    PacketFlags,
    StreamInfo,
    VideoCodec,
)
from tridetr.shm.ring_reader import RingReader
from tridetr.wire.view import TableView

_RETRIES = 4  # if the writer overtakes
_LOOK_NS = 1_000_000_000  # how often an idle reader checks the names of ring and queue


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet, copied from the ring.

    Attributes:
        sequence: Its number in the ring; grows by 1 with each packet.
        generation: Changes whenever ``info`` does.
        info: Parameters of its stream, for decoders.
        codec: The codec.
        is_key: Whether decoding can start here.
        discontinuity: Whether packets are missing before this one, at the camera or in the ring: flush the decoder.
        corrupt: Whether the demuxer marked it as damaged.
        pts: In units of ``info.time_base``; None if unknown.
        dts: Likewise.
        duration: Likewise.
        capture_monotonic_ns: Capture time on CLOCK_MONOTONIC [ns].
        capture_unix_ns: Capture time in Unix time [ns].
        data: Its bytes, as the camera sent them.
        lost: Number of packets before it that this reader missed, because it was too slow or skipped them.
    """

    sequence: int
    generation: int
    info: StreamInfo
    codec: VideoCodec
    is_key: bool
    discontinuity: bool
    corrupt: bool
    pts: int | None
    dts: int | None
    duration: int | None
    capture_monotonic_ns: int
    capture_unix_ns: int
    data: bytes
    lost: int


class _PacketLease(Lease):
    __slots__ = ()
    _view: TableView

    def values(self) -> tuple[int, ...]:
        return self._view.read(self._mapping.buffer)

    def copy(self, area: DataArea, offset: int, size: int) -> bytes:
        if offset < area.start or offset + size > area.end:
            raise ShmError(f"{size} bytes at {offset} are outside the data area")
        return bytes(self._mapping.buffer[offset : offset + size])


class PacketReader(RingReader[TableView, _PacketLease]):
    """Reads the packets of one camera in order, from a key frame on; a context manager. One reader per thread.

    A reader that falls behind continues at a key frame; ``Packet.lost`` is the number of packets that it missed. It
    holds no slots between two calls.

    Example::

        with PacketReader("default", "hall") as reader:
            reader.seek(time.monotonic_ns() - 5_000_000_000)  # pre-roll
            while (packet := reader.read()) is not None:
                write(packet.data)
    """

    def __init__(
        self,
        instance: str,
        camera: str,
        consumer: str | None = None,
        *,
        live: bool = False,
        kind: str = names.PACKETS,
        demand: bool = False,
    ) -> None:
        """Open the consumer's wake-up queue (None: this reader polls); the ring does not have to exist yet.

        Args:
            instance: Instance of tridetr.
            camera: Name of the camera.
            consumer: Name of the consumer (``names.CONSUMERS``).
            live: Start at the newest key frame, also after a loss; otherwise at the oldest one.
            kind: ``names.PACKETS``, or ``names.VIEW``: the second stream.
            demand: Request the stream until this reader is closed (see :meth:`PacketWriter.is_wanted`).

        Raises:
            ShmError: A system limit is reached, or a name is not allowed.
        """
        name = RingName(instance, camera, kind)
        super().__init__(name, consumer, PACKET, lambda _, table: table, _PacketLease)
        self._live = live
        self._demand = demand
        self._look_ns = 0
        self._next = 0  # sequence; 0: any key frame
        self._slot = 0  # where it is expected
        self._skipped = 0  # packets, since the last one that was read
        self._at_key_frame = True  # the next packet must be a key frame
        self._mapped: Mapping | None = None
        self._area: DataArea | None = None
        self._info: tuple[int, StreamInfo] | None = None

    @property
    def kind(self) -> str:
        """``names.PACKETS`` or ``names.VIEW``."""
        return self._name.kind

    def read(self) -> Packet | None:
        """Return the next packet; None if there is none yet (or no key frame yet to start from)."""
        mapping = self._look_at_ring()
        if mapping is None or self._area is None:
            self._look_after_names()
            return None
        for _ in range(_RETRIES):
            found = self._find_next(mapping, self._area)
            if found is None:
                self._look_after_names()
                return None
            wanted, slot = found
            try:
                lease = self._lease(mapping, slot, wanted - 1)
                if lease is None:
                    continue
                with lease:
                    if lease.sequence != wanted:
                        continue
                    packet = self._packet(lease, self._area)
            except ShmError as error:
                self._note_damage(error)
                self._next, self._at_key_frame = max(self._next, wanted + 1), True
                continue
            self._next, self._at_key_frame, self._skipped = wanted + 1, False, 0
            self._slot = (slot + 1) % mapping.slots
            return packet
        return None

    def _look_after_names(self) -> None:
        """Check from time to time whether ring or queue were removed, since nothing arrives."""
        now_ns = time.monotonic_ns()
        if now_ns >= self._look_ns:
            self._look_ns = now_ns + _LOOK_NS
            self.forget_if_removed()

    def seek(self, monotonic_ns: int) -> bool:
        """Move to the newest key frame captured at or before a time (CLOCK_MONOTONIC), or else to the oldest one.

        Returns:
            Whether the ring has a key frame; if not, reading starts at the next one.
        """
        self._next, self._at_key_frame = 0, True
        mapping = self._look_at_ring()
        if mapping is None or self._area is None:
            return False
        keys = self._keys(mapping, self._area, 0)
        if not keys:
            return False
        times = self._area.times
        before = [sequence for sequence, slot in keys if times[slot] <= monotonic_ns]
        self._next = before[-1] if before else keys[0][0]
        return True

    @property
    def lag(self) -> int:
        """Number of packets that this reader has yet to read; 0 before its first one."""
        mapping = self._look_at_ring()
        if mapping is None or not self._next:
            return 0
        return max(0, int(mapping.words[LAST_SEQUENCE_WORD]) + 1 - self._next)

    def skip(self) -> bool:
        """Move to the newest key frame among the packets that are yet to be read; return whether there is one."""
        mapping = self._look_at_ring()
        if mapping is None or self._area is None:
            return False
        keys = self._keys(mapping, self._area, self._next)
        if not keys:
            return False
        self._skipped += keys[-1][0] - self._next if self._next else 0
        self._next, self._at_key_frame = keys[-1][0], True
        return True

    def newest_ns(self) -> int:
        """Return the capture time of the newest packet (CLOCK_MONOTONIC) without moving to it; 0 if there is none."""
        mapping = self._look_at_ring()
        if mapping is None or self._area is None:
            return 0
        listed = mapping.sequences.tolist()
        newest = max(listed)
        return int(self._area.times[listed.index(newest)]) if newest else 0

    def newest_info(self) -> StreamInfo | None:
        """Return the parameters of the newest stream without moving to it; None if there is none."""
        mapping = self._look_at_ring()
        if mapping is None or self._area is None:
            return None
        keys = self._keys(mapping, self._area, 0)
        if not keys:
            return None
        sequence, slot = keys[-1]
        try:
            lease = self._lease(mapping, slot, sequence - 1)
            if lease is None:
                return None
            with lease:
                values = lease.values()
                if not values[9]:
                    return None
                return StreamInfo.unpack(lease.copy(self._area, values[7], values[9]))
        except ShmError as error:
            self._note_damage(error)
            return None

    def _look_at_ring(self) -> Mapping | None:
        mapping = self._current()
        if mapping is not self._mapped:
            self._mapped, self._area, self._slot = mapping, None, 0
            if mapping is not None:
                if self._demand:
                    locks.apply(mapping.descriptor, locks.shared(DEMAND_BYTE))
                try:
                    self._area = DataArea(mapping.words, mapping.segment.geometry)
                except ShmError as error:
                    self._note_damage(error)
        return mapping

    def _find_next(self, mapping: Mapping, area: DataArea) -> tuple[int, int] | None:
        """Return (sequence, slot) of the packet to read; None if it is not there yet."""
        last = int(mapping.words[LAST_SEQUENCE_WORD])
        if self._restarted or self._next > last + 1:  # the ring was removed and created again
            self._next, self._at_key_frame = 0, True
        if not self._at_key_frame:
            if self._next > last:
                return None
            if self._next >= area.words[OLDEST]:
                if mapping.sequences[self._slot] == self._next:
                    return self._next, self._slot
                listed = mapping.sequences.tolist()
                if self._next in listed:
                    return self._next, listed.index(self._next)
                if self._next == last:
                    return None  # it is being published
            self._at_key_frame = True
        keys = self._keys(mapping, area, self._next)
        if not keys:
            return None
        # After `seek` or `skip`, start at the chosen key frame
        return keys[0] if keys[0][0] == self._next or not self._live else keys[-1]

    def _keys(self, mapping: Mapping, area: DataArea, least: int) -> list[tuple[int, int]]:
        """Return (sequence, slot) of the key frames from a sequence on, in order."""
        least = max(least, int(area.words[OLDEST]), 1)
        pairs = zip(mapping.sequences.tolist(), area.groups.tolist(), strict=True)
        return sorted(
            (sequence, slot)
            for slot, (sequence, group) in enumerate(pairs)
            if sequence == group and sequence >= least
        )

    def _packet(self, lease: _PacketLease, area: DataArea) -> Packet:
        values = lease.values()
        generation, pts, dts, duration, monotonic, unix, offset, info_at, size, info_size = values[
            :10
        ]
        flags = values[11]
        if info_size and (self._info is None or self._info[0] != generation):
            info = StreamInfo.unpack(lease.copy(area, info_at, info_size))
            self._info = generation, info
        if self._info is None or self._info[0] != generation:
            raise ShmError(f"the parameters of stream {generation} are missing")
        lost = self._skipped + (lease.sequence - self._next if self._next else 0)
        return Packet(
            lease.sequence,
            generation,
            self._info[1],
            self._info[1].codec,
            bool(flags & PacketFlags.KEY),
            bool(flags & PacketFlags.DISCONTINUITY) or lost > 0,
            bool(flags & PacketFlags.CORRUPT),
            None if pts == NO_TIME else pts,
            None if dts == NO_TIME else dts,
            None if duration == NO_TIME else duration,
            monotonic,
            unix,
            lease.copy(area, offset, size),
            lost,
        )
