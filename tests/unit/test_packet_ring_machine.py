"""Any order of packets, reads, restarts, stopped readers and new parameters: readers get complete, decodable runs."""

from __future__ import annotations

import uuid

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.packets import payload, put_packet, stream_info
from tridetr.shm.names import list_instance, unlink_instance
from tridetr.shm.packets import Packet, PacketReader, PacketWriter, StreamInfo
from tridetr.shm.packets.packet_reader import _PacketLease
from tridetr.shm.packets.packet_table import DataArea

SIZES = st.sampled_from([0, 1, 63, 64, 5_000, 40_000, 120_000, 300_000, 1_100_000])
INFOS = [stream_info(), stream_info(width=640, extradata=b""), stream_info(extradata=bytes(3000))]
LIMITS = [1, 2]


class PacketRingMachine(RuleBasedStateMachine):
    """One ring and one writer; a reader that keeps up, a slow one, a live one, and one that holds what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.instance = "t" + uuid.uuid4().hex[:12]
        self.limit = LIMITS[0]
        self.info = INFOS[0]
        self.number = 0
        self.published: dict[int, tuple[int, int, bool, StreamInfo]] = {}
        self.last: dict[PacketReader, Packet] = {}
        self.writer = self._open_writer()
        self.prompt = PacketReader(self.instance, "cam", "gateway")
        self.slow = PacketReader(self.instance, "cam")
        self.live = PacketReader(self.instance, "cam", live=True)
        self.stopped = PacketReader(self.instance, "cam")
        self.held: list[tuple[_PacketLease, DataArea, tuple[int, ...], bytes]] = []
        self.expected = 0  # sequence that the prompt reader must get next; 0: a key frame

    def _open_writer(self) -> PacketWriter:
        writer = PacketWriter(self.instance, "cam", seconds=1, max_mib=self.limit)
        writer.start_stream(self.info)
        return writer

    @rule(key=st.booleans(), size=SIZES)
    def put(self, key: bool, size: int) -> None:
        sequence = put_packet(self.writer, self.number, key=key, size=size)
        if sequence is not None:
            self.published[sequence] = self.number, size, key, self.info
        self.number += 1
        if (packet := self._read(self.prompt)) is not None:
            assert packet.sequence == sequence
            assert packet.lost == 0
            self.expected = sequence or 0
        elif sequence is not None:
            assert self.expected == 0
            assert not key

    @rule(info=st.sampled_from(INFOS))
    def start_stream(self, info: StreamInfo) -> None:
        self.info = info
        self.writer.start_stream(info)

    @rule(limit=st.sampled_from(LIMITS))
    def restart(self, limit: int) -> None:
        """Restart the writer, possibly with another size, which creates the next generation."""
        self.writer.close()
        self.limit = limit
        self.writer = self._open_writer()

    @rule(count=st.integers(1, 20))
    def read_slowly(self, count: int) -> None:
        for _ in range(count):
            self._read(self.slow)

    @rule()
    def read_live(self) -> None:
        while self._read(self.live) is not None:
            pass

    @rule(back=st.integers(0, 30))
    def seek(self, back: int) -> None:
        found = self.slow.seek((self.number - back) * 40_000_000)
        self.last.pop(self.slow, None)
        assert (self._read(self.slow) is not None) == found

    @precondition(lambda self: len(self.held) < 5)
    @rule(back=st.integers(0, 10))
    def hold(self, back: int) -> None:
        mapping = self.stopped._current()
        if mapping is None:
            return
        listed = mapping.sequences.tolist()
        wanted = max(listed) - back
        if wanted <= 0 or wanted not in listed:
            return
        lease = self.stopped._lease(mapping, listed.index(wanted), wanted - 1)
        assert lease is not None
        area = DataArea(mapping.words, mapping.segment.geometry)
        values = lease.values()
        self.held.append((lease, area, values, lease.copy(area, values[6], values[8])))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 10))
    def release(self, which: int) -> None:
        self.held.pop(which % len(self.held))[0].release()

    def _read(self, reader: PacketReader) -> Packet | None:
        packet = reader.read()
        if packet is None:
            return None
        number, size, key, info = self.published[packet.sequence]
        assert packet.data == payload(number, size)
        assert (packet.is_key, packet.info) == (key, info)
        before = self.last.get(reader)
        if before is None:
            assert packet.is_key
        else:
            assert packet.lost == packet.sequence - before.sequence - 1
            if packet.lost:
                assert packet.is_key
                assert packet.discontinuity
        self.last[reader] = packet
        return packet

    @invariant()
    def held_packets_do_not_change(self) -> None:
        for lease, area, values, data in self.held:
            assert lease.values() == values
            assert lease.copy(area, values[6], values[8]) == data

    @invariant()
    def memory_is_bounded(self) -> None:
        taken = max(path.stat().st_blocks * 512 for path in list_instance(self.instance))
        assert taken < (max(LIMITS) + 1) << 20

    def teardown(self) -> None:
        self.writer.close()
        for reader in (self.prompt, self.slow, self.live, self.stopped):
            assert reader.damaged == 0
            reader.close()
        unlink_instance(self.instance)


TestPacketRingMachine = PacketRingMachine.TestCase
TestPacketRingMachine.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
