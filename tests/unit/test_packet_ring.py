"""The packet ring: reading, losses, restarts, growth and limits."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from support.packets import payload, put_packet, stream_info
from tridetr.shm import names
from tridetr.shm.packets import Packet, PacketReader, PacketWriter
from tridetr.shm.packets.packet_table import DataArea
from tridetr.shm.wakeup import Wakeup

MIB = 1 << 20


def open_writer(instance: str, *, seconds: float = 10, max_mib: float = 4) -> PacketWriter:
    writer = PacketWriter(instance, "cam", seconds=seconds, max_mib=max_mib)
    writer.start_stream(stream_info())
    return writer


def read_all(reader: PacketReader) -> list[Packet]:
    found = []
    while (packet := reader.read()) is not None:
        found.append(packet)
    return found


def put_groups(
    writer: PacketWriter, groups: int, *, first: int = 0, length: int = 5, size: int = 1000
) -> int:
    """Publish groups of packets; return the number after the last one."""
    for number in range(first, first + groups * length):
        put_packet(writer, number, key=(number - first) % length == 0, size=size)
    return first + groups * length


def numbers(packets: list[Packet]) -> list[int]:
    return [(packet.capture_monotonic_ns - 1) // 40_000_000 for packet in packets]


def test_a_packet_is_read_as_it_was_written(instance: str) -> None:
    info = stream_info()
    with open_writer(instance) as writer, PacketReader(instance, "cam") as reader:
        assert reader.read() is None
        sequence = put_packet(writer, 7, key=True, size=12_345, duration=3600, corrupt=True)
        packet = reader.read()
        assert packet is not None
        assert packet == Packet(
            sequence=sequence or 0,
            generation=sequence or 0,
            info=info,
            codec=info.codec,
            is_key=True,
            discontinuity=True,  # the first one of its writer
            corrupt=True,
            pts=7 * 3600,
            dts=5 * 3600,
            duration=3600,
            capture_monotonic_ns=280_000_001,
            capture_unix_ns=280_000_002,
            data=payload(7, 12_345),
            lost=0,
        )
        put_packet(writer, 8, size=0, pts=None, dts=None)
        packet = reader.read()
        assert packet is not None
        assert (packet.pts, packet.dts, packet.duration) == (None, None, None)
        assert (packet.is_key, packet.discontinuity, packet.corrupt) == (False, False, False)
        assert (packet.data, packet.info) == (b"", info)
        assert reader.read() is None


def test_packets_are_read_in_order_when_the_ring_wraps_around(instance: str) -> None:
    with open_writer(instance, seconds=1) as writer, PacketReader(instance, "cam") as reader:
        seen = []
        for number in range(2000):
            put_packet(writer, number, key=number % 25 == 0, size=(number * 7919) % 60_000)
            packet = reader.read()
            assert packet is not None
            assert packet.data == payload(number, (number * 7919) % 60_000)
            seen.append(packet)
        assert numbers(seen) == list(range(2000))
        assert not any(packet.lost for packet in seen)
        assert (writer.dropped, reader.damaged) == (0, 0)


def test_reading_starts_at_a_key_frame(instance: str) -> None:
    with open_writer(instance) as writer:
        for number in range(3):
            put_packet(writer, number)  # these cannot be decoded
        with (
            PacketReader(instance, "cam") as oldest,
            PacketReader(instance, "cam", live=True) as newest,
        ):
            assert (oldest.read(), newest.read()) == (None, None)
            put_groups(writer, 3, first=3)
            assert numbers(read_all(oldest)) == list(range(3, 18))
            assert numbers(read_all(newest)) == list(range(13, 18))


@pytest.mark.parametrize(("live", "resumed"), [(False, 0), (True, 1)])
def test_a_slow_reader_loses_whole_groups_and_their_number_is_reported(
    instance: str, live: bool, resumed: int
) -> None:
    with (
        open_writer(instance, seconds=1) as writer,
        PacketReader(instance, "cam", live=live) as reader,
    ):
        number = put_groups(writer, 1, size=20_000)
        before = read_all(reader)
        assert len(before) == 5
        number = put_groups(writer, 40, first=number, size=20_000)  # 4 MB through 1 MiB
        after = read_all(reader)
        assert after[0].is_key
        assert after[0].discontinuity
        assert after[0].lost == after[0].sequence - before[-1].sequence - 1 > 0
        assert numbers(after) == list(range(numbers(after)[0], number))
        assert not any(packet.lost or packet.discontinuity for packet in after[1:])
        assert (len(after) == 5) == bool(resumed)


def test_seek_finds_the_key_frame_before_a_time(instance: str) -> None:
    with open_writer(instance) as writer, PacketReader(instance, "cam", live=True) as reader:
        assert not reader.seek(0)
        put_groups(writer, 4)
        for wanted, first in ((0, 0), (7, 5), (10, 10), (14, 10), (1000, 15)):
            assert reader.seek(wanted * 40_000_000 + 1)
            assert numbers(read_all(reader)) == list(range(first, 20))


def test_new_parameters_start_a_new_generation(instance: str) -> None:
    other = stream_info(width=640, height=480, codec_string="avc1.42c01e", extradata=b"")
    with open_writer(instance) as writer, PacketReader(instance, "cam") as reader:
        put_groups(writer, 2)
        writer.start_stream(other)
        put_groups(writer, 2, first=10)
        found = read_all(reader)
        assert len(found) == 20
        assert {packet.generation for packet in found[:10]} == {found[0].generation}
        assert {packet.generation for packet in found[10:]} == {found[10].sequence}
        assert found[9].info == stream_info()
        assert found[10].info == other
        assert reader.seek(9 * 40_000_000)
        assert reader.read() is not None
        packet = reader.read()
        assert packet is not None
        assert packet.info == stream_info()


def test_a_restarted_writer_continues(instance: str) -> None:
    with PacketReader(instance, "cam") as reader:
        with open_writer(instance) as writer:
            put_groups(writer, 2)
            assert len(read_all(reader)) == 10
            put_groups(writer, 1, first=10)  # these are not read
        with open_writer(instance) as writer:
            assert reader.read() is None
            put_groups(writer, 1, first=20)
            found = read_all(reader)
            assert numbers(found) == [20, 21, 22, 23, 24]
            assert (found[0].sequence, found[0].lost) == (16, 5)
            assert len(names.RingName(instance, "cam", "packets").generations()) == 1


def test_a_group_larger_than_the_ring(instance: str) -> None:
    """A camera without key frames: a reader that keeps up loses nothing, a late one waits."""
    with open_writer(instance, max_mib=1) as writer, PacketReader(instance, "cam") as reader:
        for number in range(300):
            put_packet(writer, number, key=number == 0, size=10_000)
            packet = reader.read()
            assert packet is not None
            assert packet.data == payload(number, 10_000)
        with PacketReader(instance, "cam") as late:
            assert late.read() is None
            put_groups(writer, 1, first=300)
            assert numbers(read_all(late)) == [300, 301, 302, 303, 304]
            assert numbers(read_all(reader)) == [300, 301, 302, 303, 304]


def test_a_packet_that_does_not_fit_drops_the_rest_of_its_group(instance: str) -> None:
    with open_writer(instance, max_mib=1) as writer, PacketReader(instance, "cam") as reader:
        put_packet(writer, 0, key=True)
        assert put_packet(writer, 1, size=2 * MIB) is None
        assert put_packet(writer, 2) is None
        assert put_packet(writer, 3, key=True) is not None
        assert put_packet(writer, 4) is not None
        found = read_all(reader)
        assert numbers(found) == [0, 3, 4]
        assert [packet.discontinuity for packet in found] == [True, True, False]
        assert writer.dropped == 1


def test_memory_is_allocated_as_the_stream_needs_it(instance: str) -> None:
    path = names.RingName(instance, "cam", "packets").path(1)
    with open_writer(instance, seconds=10, max_mib=8) as writer:
        put_groups(writer, 60, size=100)
        assert path.stat().st_blocks * 512 < 2 * MIB
        put_groups(writer, 60, size=10_000)  # 12 s of 2 Mbit/s: 2.5 MB in 10 s
        assert 2 * MIB < path.stat().st_blocks * 512 < 5 * MIB
        put_groups(writer, 60, size=100_000)  # 12 s of 20 Mbit/s: more than the limit
        assert path.stat().st_blocks * 512 < 9 * MIB
        with PacketReader(instance, "cam") as reader:
            found = read_all(reader)
            assert len(found) * 100_000 > 6 * MIB


def test_a_full_shm_shortens_the_ring(
    instance: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open_writer(instance, max_mib=8) as writer, PacketReader(instance, "cam") as reader:
        put_groups(writer, 10, size=10_000)

        def refuse(descriptor: int, offset: int, size: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", refuse)
        with caplog.at_level(logging.WARNING):
            put_groups(writer, 100, first=50, size=10_000)
        assert [record.message.count("No space left") for record in caplog.records] == [1]
        found = read_all(reader)
        assert numbers(found)[-1] == 549
        assert writer.dropped == 0


def test_a_reader_that_is_stopped_while_it_holds_a_packet(instance: str) -> None:
    """The writer skips what a stopped process holds, and other readers lose nothing."""
    with (
        open_writer(instance, seconds=1, max_mib=1) as writer,
        PacketReader(instance, "cam") as stopped,
        PacketReader(instance, "cam") as reader,
    ):
        put_groups(writer, 1)
        mapping = stopped._current()
        assert mapping is not None
        leases = [stopped._lease(mapping, slot, 0) for slot in (0, 3)]
        assert all(leases)
        before = [lease.values() for lease in leases if lease]
        for number in range(5, 1000):
            assert put_packet(writer, number, key=number % 5 == 0, size=9_000) is not None
            read_all(reader)
        assert writer.dropped == 0
        assert reader.damaged == 0
        area = DataArea(mapping.words, mapping.segment.geometry)
        for number, lease, values in zip((0, 3), leases, before, strict=True):
            assert lease is not None
            assert lease.values() == values
            assert lease.copy(area, values[6], values[8]) == payload(number, 1000)


def test_the_gateway_is_woken(instance: str) -> None:
    name = names.RingName(instance, "cam", "packets")
    wakeup = Wakeup(name.queue("gateway"))
    with open_writer(instance) as writer:
        assert not wakeup.drain()
        put_packet(writer, 0, key=True)
        assert wakeup.drain()
    wakeup.close()


def test_pre_roll_of_a_recorder(instance: str) -> None:
    """The example in the documentation works."""
    with open_writer(instance) as writer:
        put_groups(writer, 20)
        with PacketReader(instance, "cam") as reader:
            reader.seek((100 - 25) * 40_000_000)
            assert numbers(read_all(reader)) == list(range(70, 100))


def test_a_reader_requests_the_second_stream_until_it_dies(instance: str) -> None:
    with PacketWriter(instance, "cam", seconds=10, max_mib=4, kind=names.VIEW) as writer:
        assert not writer.is_wanted()
        with PacketReader(instance, "cam", kind=names.VIEW) as other:
            other.read()
            assert not writer.is_wanted()
        reader = PacketReader(instance, "cam", kind=names.VIEW, demand=True)
        assert reader.read() is None
        assert writer.is_wanted()
        reader.close()
        assert not writer.is_wanted()


def test_a_requested_ring_that_was_removed_is_requested_again(
    instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tridetr.shm.ring_writer._LOOK_NS", 0)
    monkeypatch.setattr("tridetr.shm.packets.packet_reader._LOOK_NS", 0)
    with (
        PacketWriter(instance, "cam", seconds=10, max_mib=4, kind=names.VIEW) as writer,
        PacketReader(instance, "cam", kind=names.VIEW, demand=True) as reader,
    ):
        reader.read()
        names.list_instance(instance)[0].unlink()
        assert not writer.is_wanted()
        reader.read()
        reader.read()
        assert writer.is_wanted()


def test_a_cleared_ring_uses_no_memory_and_continues_at_a_key_frame(instance: str) -> None:
    with open_writer(instance) as writer, PacketReader(instance, "cam") as reader:
        put_groups(writer, 8, length=10, size=20_000)
        assert reader.read() is not None
        (file,) = names.list_instance(instance)
        before = file.stat().st_blocks * 512
        writer.clear()
        assert before - file.stat().st_blocks * 512 > 1_500_000
        assert reader.read() is None
        with PacketReader(instance, "cam") as late:
            assert late.newest_info() is None
            put_groups(writer, 2, first=100)
            assert numbers(read_all(late)) == list(range(100, 110))
        found = read_all(reader)
    assert numbers(found) == list(range(100, 110))
    assert found[0].discontinuity
    assert [packet.data for packet in found] == [payload(n, 1000) for n in range(100, 110)]
