"""A hostile or corrupt writer: readers reject or skip its data, and never crash or read outside the file."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.fake_cuda import FakeCuda, GpuCamera
from support.packets import put_packet, stream_info
from support.rings import frame_stamp, result_stamp, some_detections
from tridetr.errors import ShmError
from tridetr.shm import layout, names
from tridetr.shm.boards import (
    CameraState,
    CameraStatus,
    SentryMode,
    SentryReader,
    SentrySnapshot,
    SentryState,
    SentryWriter,
    StatusReader,
    StatusWriter,
)
from tridetr.shm.detections import DetectionReader, DetectionWriter
from tridetr.shm.frames import DeviceFrameReader, FrameReader, FrameWriter
from tridetr.shm.packets import PacketReader, PacketWriter
from tridetr.triton.client import registration


def write_frames(instance: str) -> None:
    with FrameWriter(instance, "cam", width=16, height=8, jpeg_capacity=32, slots=3) as writer:
        for number in range(5):
            slot = writer.begin()
            assert slot is not None
            writer.publish(slot, frame_stamp(number), jpeg_bytes=number)


def read_frames(instance: str) -> None:
    with FrameReader(instance, "cam", "gateway") as reader:
        for _ in range(2):  # the second time from the cached view
            lease = reader.lease_newest()
            if lease is not None:
                with lease:
                    assert lease.stamp.color_matrix in (0, 1, 2)
                    assert len(bytes(lease.jpeg)) <= lease.region.size_bytes
                    assert lease.planes.sum() >= 0
                    assert lease.pixels_offset + lease.pixels_nbytes <= lease.region.size_bytes


def write_device_frames(instance: str) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        GpuCamera(instance, FakeCuda(Path(folder)), width=16, height=8) as camera,
    ):
        for number in range(5):
            camera.put(number)


def read_device_frames(instance: str) -> None:
    with DeviceFrameReader(instance, "cam", "detector") as reader:
        for _ in range(2):
            lease = reader.lease_newest()
            if lease is not None:
                with lease:
                    place = lease.device
                    assert place.pixels_nbytes == lease.width * lease.height * 3 // 2
                    assert place.pixels_offset + place.pixels_nbytes <= place.region.size_bytes
                    assert len(place.region.handle) == 64
                    assert lease.stamp.color_matrix in (0, 1, 2)
                    method, request = registration(place.region)
                    assert method == "CudaSharedMemoryRegister"
                    assert request.SerializeToString()


def write_results(instance: str) -> None:
    with DetectionWriter(instance, "cam", slots=3, max_detections=8) as writer:
        for number in range(5):
            writer.publish(result_stamp(number), some_detections(number))


def read_results(instance: str) -> None:
    with DetectionReader(instance, "cam", None) as reader:
        after = 0
        for _ in range(20):
            lease = reader.lease_next(after)
            if lease is None:
                break
            with lease:
                after = lease.sequence
                assert np.nansum(lease.detections["class_id"].astype(np.int64)) >= 0
                assert isinstance(lease.stamp.model_name, str)


def write_boards(instance: str) -> None:
    with StatusWriter(instance, "cam") as writer, SentryWriter(instance, "cam") as sentry:
        writer.write(CameraStatus(CameraState.LIVE, 1, 2, message="hello"))
        sentry.write(SentrySnapshot(SentryMode.ALARMED, SentryState.TRACKING, 1, "visit", 2))


def read_boards(instance: str) -> None:
    with StatusReader(instance, "cam") as reader, SentryReader(instance, "cam") as sentry:
        status, snapshot = reader.read(), sentry.read()
        assert status is None or isinstance(status.message, str)
        assert snapshot is None or isinstance(snapshot.visit_id, str)


def write_packets(instance: str) -> None:
    with PacketWriter(instance, "cam", seconds=1, max_mib=1) as writer:
        writer.start_stream(stream_info())
        for number in range(6):
            put_packet(writer, number, key=number % 3 == 0, size=200)


def read_packets(instance: str) -> None:
    with PacketReader(instance, "cam") as reader:
        for _ in range(2):
            for _ in range(20):
                packet = reader.read()
                if packet is None:
                    break
                assert len(packet.data) <= 1 << 20
                assert packet.info.time_base[1] > 0
                assert packet.lost >= 0
            reader.seek(80_000_000)


KINDS = {
    "frames": (write_frames, read_frames),
    "device frames": (write_device_frames, read_device_frames),
    "results": (write_results, read_results),
    "boards": (write_boards, read_boards),
    "packets": (write_packets, read_packets),
}
WORD = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(0, 40),
    st.sampled_from([4096, 8192, 12288, 2**31, 2**32 - 1, 2**63, 2**64 - 4096, 2**64 - 1]),
)
HEADER = st.tuples(
    st.one_of(st.integers(0, 20), st.integers(layout.SEQUENCES, layout.SEQUENCES + 4)).map(
        lambda word: 8 * word
    ),
    WORD.map(lambda value: value.to_bytes(8, "little")),
)
SLOT = st.tuples(
    # The tables are at the beginning of their slots.
    st.integers(0, 2).flatmap(
        lambda slot: st.integers(0, 520).map(lambda at: layout.PAGE * (1 + slot) + at)
    ),
    st.one_of(
        st.binary(min_size=1, max_size=4),
        st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\xff\xff", b"\0\0", b"\0\0\0\0"]),
    ),
)
# Of packets: the index in the data area, and the first StreamInfo after it.
DATA = st.tuples(
    st.integers(0, 136).map(lambda word: layout.PAGE * 4 + 8 * word)
    | st.integers(0, 200).map(lambda at: layout.PAGE * 5 + at),
    WORD.map(lambda value: value.to_bytes(8, "little")),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.one_of(HEADER, SLOT, DATA), min_size=1, max_size=6),
    cut=st.none() | st.integers(0, 5000),
)
@example(changes=[(8 * layout.SLOTS_WORD, (200).to_bytes(8, "little"))], cut=None)
@example(changes=[(8 * layout.NEWEST_SLOT_WORD, (200).to_bytes(8, "little"))], cut=None)
@example(changes=[(8 * layout.SUCCESSOR_WORD, (9).to_bytes(8, "little"))], cut=None)
def test_no_corruption_crashes_a_reader(
    kind: str, changes: list[tuple[int, bytes]], cut: int | None
) -> None:
    write, read = KINDS[kind]
    check(write, read, changes, cut)


def check(
    write: Callable[[str], None],
    read: Callable[[str], None],
    changes: list[tuple[int, bytes]],
    cut: int | None,
) -> None:
    instance = "t" + uuid.uuid4().hex[:12]
    try:
        write(instance)
        for path in names.list_instance(instance):
            with path.open("r+b") as ring:
                for at, data in changes:
                    ring.seek(at)
                    ring.write(data)
                if cut is not None:
                    ring.truncate(cut)
        read(instance)
    finally:
        names.unlink_instance(instance, ["cam"])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(changes=st.lists(st.one_of(HEADER, SLOT, DATA), min_size=1, max_size=4))
def test_corruption_after_the_first_read(kind: str, changes: list[tuple[int, bytes]]) -> None:
    """The slots were valid when the reader first read them; its cached views must not mislead it."""
    instance = "t" + uuid.uuid4().hex[:12]
    try:
        KINDS[kind][0](instance)
        with (
            FrameReader(instance, "cam", "gateway") as frames,
            DetectionReader(instance, "cam", None) as results,
            PacketReader(instance, "cam") as packets,
        ):
            frames.lease_newest()
            results.lease_newest()
            packets.read()
            for path in names.list_instance(instance):
                with path.open("r+b") as ring:
                    for at, data in changes:
                        ring.seek(at)
                        ring.write(data)
            if (frame := frames.lease_newest()) is not None:
                assert frame.planes.sum() >= 0
                assert len(bytes(frame.jpeg)) <= frame.region.size_bytes
                assert frame.stamp
            if (result := results.lease_next()) is not None:
                assert result.detections.nbytes <= 8192
                assert result.stamp
            for _ in range(10):
                if (packet := packets.read()) is not None:
                    assert len(packet.data) <= 1 << 20
    finally:
        names.unlink_instance(instance, ["cam"])


@pytest.mark.parametrize("size", [0, 100, layout.PAGE])
def test_a_file_that_shrinks_is_closed(instance: str, size: int) -> None:
    """Accessing a page that was cut off would raise SIGBUS."""
    write_frames(instance)
    (path,) = names.list_instance(instance)
    with FrameReader(instance, "cam", "gateway") as reader:
        assert reader.lease_newest() is not None
        os.truncate(path, size)
        assert reader.lease_newest() is None
        assert reader.region is None
        with FrameWriter(instance, "cam", width=16, height=8, slots=3) as writer:  # next generation
            slot = writer.begin()
            assert slot is not None
            writer.publish(slot, frame_stamp(9))
            lease = reader.lease_newest()
            assert lease is not None
            assert lease.stamp.frame_number == 9


def test_damage_is_counted_and_explained(instance: str) -> None:
    write_frames(instance)
    (path,) = names.list_instance(instance)
    with path.open("r+b") as ring:
        for slot in range(3):
            ring.seek(layout.PAGE * (1 + slot) + 4)
            ring.write(b"WXYZ")
    with FrameReader(instance, "cam", "gateway") as reader:
        assert reader.lease_newest() is None
        assert reader.damaged == 1
        assert isinstance(reader.damage, ShmError)


def test_a_damaged_result_does_not_hide_the_next(instance: str) -> None:
    write_results(instance)  # sequences 3, 4, 5 are left; 4 is in slot 0
    (path,) = names.list_instance(instance)
    with path.open("r+b") as ring:
        ring.seek(layout.PAGE + 4)
        ring.write(b"WXYZ")
    with DetectionReader(instance, "cam", None) as reader:
        seen: list[int] = []
        while (lease := reader.lease_next(seen[-1] if seen else 0)) is not None:
            with lease:
                seen.append(lease.sequence)
        assert seen == [3, 5]
