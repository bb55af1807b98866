"""Rings and queues whose names are removed while both ends use them, by a cleaner, RemoveIPC or another node."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import posix_ipc
import pytest

from support.fake_cuda import FakeCuda, GpuCamera
from support.packets import put_packet, stream_info
from support.rings import put_frame, result_stamp, some_detections
from support.waiting import wait_for
from tridetr.errors import ShmError
from tridetr.gateway.readers import CameraReaders
from tridetr.shm import names, ring_writer
from tridetr.shm.boards import CameraState, CameraStatus, StatusReader, StatusWriter
from tridetr.shm.detections import DetectionReader, DetectionWriter
from tridetr.shm.frames import DeviceFrameReader, FrameReader, FrameWriter
from tridetr.shm.names import RingFile, RingName, TritonRegion, owner_of
from tridetr.shm.packets import PacketReader, PacketStamp, PacketWriter

W, H = 64, 32


def _unlink(path: Path) -> None:
    path.unlink()


def _rename(path: Path) -> None:
    path.rename(path.with_name(path.name.replace("-cam-", "-gone-")))


def _replace(path: Path) -> None:
    path.unlink()
    path.write_bytes(bytes(16))


LOSSES = pytest.mark.parametrize("lose", [_unlink, _rename, _replace])


@pytest.fixture(autouse=True)
def _look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_writer, "_LOOK_NS", 0)


@LOSSES
def test_a_frame_ring_is_recreated_and_readers_follow(
    instance: str, lose: Callable[[Path], None]
) -> None:
    name = RingName(instance, "cam", "frames")
    with (
        FrameWriter(instance, "cam", width=W, height=H) as writer,
        FrameReader(instance, "cam", "gateway") as early,
    ):
        put_frame(writer, 1)
        lease = early.lease_newest()
        assert lease is not None
        lease.release()
        lose(name.path(1))
        assert put_frame(writer, 2) == 2  # sequences continue
        with FrameReader(instance, "cam", "detector") as late:
            for reader in (early, late):
                lease = reader.lease_newest(1)
                assert lease is not None
                with lease:
                    assert (lease.sequence, int(lease.planes[0, 0])) == (2, 2)
                    assert lease.region.generation == 2
                    assert name.path(2).stat().st_ino == lease.region.inode
    for leftover in names.list_instance(instance):
        leftover.unlink()


@LOSSES
def test_a_ring_with_device_memory_is_recreated(
    instance: str, lose: Callable[[Path], None], gpu: FakeCuda
) -> None:
    name = RingName(instance, "cam", "device")
    with (
        GpuCamera(instance, gpu, width=W, height=H) as camera,
        DeviceFrameReader(instance, "cam", None) as reader,
    ):
        camera.put(1)
        lose(name.path(1))
        camera.put(2)
        lease = reader.lease_newest()
        assert lease is not None
        with lease:
            assert lease.device.region.ring.generation == 2
    assert gpu.is_clean()
    for leftover in names.list_instance(instance):
        leftover.unlink()


@LOSSES
def test_results_and_boards_are_recreated(instance: str, lose: Callable[[Path], None]) -> None:
    status = CameraStatus(CameraState.LIVE, 1, 2)
    with (
        DetectionWriter(instance, "cam") as results,
        StatusWriter(instance, "cam") as board,
        DetectionReader(instance, "cam", "controller") as reader,
        StatusReader(instance, "cam") as board_reader,
    ):
        results.publish(result_stamp(1), some_detections(1))
        board.write(status)
        assert board_reader.read() == status
        for kind in ("detections", "status"):
            lose(RingName(instance, "cam", kind).path(1))
        reader.forget_if_removed()
        results.publish(result_stamp(2), some_detections(2))
        board.write(CameraStatus(CameraState.FROZEN, 3, 4))
        lease = reader.lease_next(1)
        assert lease is not None
        with lease:
            assert len(lease.detections) == 2
        found = board_reader.read()
        assert found is not None
        assert found.state is CameraState.FROZEN
    for leftover in names.list_instance(instance):
        leftover.unlink()


@LOSSES
def test_a_packet_ring_is_recreated(instance: str, lose: Callable[[Path], None]) -> None:
    with (
        PacketWriter(instance, "cam", seconds=10, max_mib=2) as writer,
        PacketReader(instance, "cam", "gateway") as reader,
    ):
        writer.start_stream(stream_info())
        writer.put(b"key", PacketStamp(1, 1, is_key=True))
        first = reader.read()
        assert first is not None
        lose(RingName(instance, "cam", "packets").path(1))
        writer.put(b"next", PacketStamp(2, 2))
        writer.put(b"key 2", PacketStamp(3, 3, is_key=True))
        second = reader.read()
        assert second is not None
        assert (second.data, second.lost) == (b"next", 0)  # this reader missed nothing
        assert second.info == first.info
        with PacketReader(instance, "cam") as late:
            third = late.read()
            assert third is not None
            assert third.data == b"key 2"
    for leftover in names.list_instance(instance):
        leftover.unlink()


def test_packets_are_read_after_a_restart_without_a_ring(instance: str) -> None:
    """The writer that would have announced the next ring is gone, and so is its ring."""
    with PacketReader(instance, "cam") as reader:
        for number in (1, 2):
            with PacketWriter(instance, "cam", seconds=10, max_mib=2) as writer:
                writer.start_stream(stream_info())
                writer.put(b"key", PacketStamp(number, number, is_key=True))
                packet = wait_for(reader.read, 5)
                assert packet is not None
                assert packet.capture_monotonic_ns == number
            RingName(instance, "cam", "packets").path(1).unlink()
        assert reader.read() is None


def test_a_name_that_another_writer_has_taken_is_left_to_it(instance: str) -> None:
    with StatusWriter(instance, "cam") as first:
        RingName(instance, "cam", "status").path(1).unlink()
        with StatusWriter(instance, "cam"), pytest.raises(ShmError, match="already has a writer"):
            first.write(CameraStatus(CameraState.LIVE, 1, 2))


def test_a_removed_queue_is_recreated_by_both_ends(instance: str) -> None:
    name = RingName(instance, "cam", "frames").queue("gateway")
    with (
        FrameWriter(instance, "cam", width=W, height=H) as writer,
        FrameReader(instance, "cam", "gateway") as reader,
    ):
        assert reader.wakeup is not None
        descriptor = reader.wakeup.fileno()
        put_frame(writer, 1)
        assert reader.wakeup.wait(1)
        posix_ipc.unlink_message_queue(name)
        reader.forget_if_removed()
        put_frame(writer, 2)
        assert reader.wakeup.wait(1)
        assert reader.wakeup.fileno() == descriptor  # event loops watch it
        assert not reader.wakeup.wait(0)
        posix_ipc.unlink_message_queue(name)
        put_frame(writer, 3)  # the writer checks first
        reader.forget_if_removed()
        assert reader.wakeup.wait(1)


def test_an_earlier_generation_is_removed_with_its_last_lease(instance: str) -> None:
    name = RingName(instance, "cam", "frames")
    with (
        FrameWriter(instance, "cam", width=W, height=H) as writer,
        FrameReader(instance, "cam", "gateway") as reader,
    ):
        put_frame(writer, 1)
        lease = reader.lease_newest()
        assert lease is not None
        writer.resize(W * 2, H)
        put_frame(writer, 2)
        assert name.generations() == [1, 2]  # its reader may still have to register it with Triton
        assert (lease.planes == 1).all()
        lease.release()
        put_frame(writer, 3)
        assert name.generations() == [2]


def test_every_file_has_one_owner(instance: str) -> None:
    assert owner_of("tridetr-a-b-frames-1") == RingFile(RingName("a", "b", "frames"), 1)
    odd = "x-frames-1"  # a camera's name may look like the end of a ring's name
    assert owner_of(f"tridetr-a-{odd}-status-7") == RingFile(RingName("a", odd, "status"), 7)
    for region in ("tridetr-a-triton-1f", "tridetr-a-triton-frames-1", "tridetr-a-triton-x-need-1"):
        assert owner_of(region) == TritonRegion("a")
    for other in ("tridetr-a.lock", "tridetr-a-b-frames-0", "tridetr-a-b-other-1", "sem.x"):
        assert owner_of(other) is None


@pytest.mark.parametrize("camera", ["triton", "triton-hall", "triton-frames-1"])
def test_names_of_tritons_memory_are_reserved(camera: str) -> None:
    with pytest.raises(ShmError, match="reserved"):
        RingName("t", camera, "frames")
    RingName("t", camera.replace("triton", "tritons"), "frames")


def test_tritons_regions_are_removed_but_no_rings(instance: str) -> None:
    StatusWriter(instance, "cam").close()
    region = names.SHM_DIR / (names.triton_region_prefix(instance) + "status-1")
    region.write_bytes(b"x")
    assert names.remove_triton_regions(instance) == [region.name]
    assert len(names.list_instance(instance)) == 1


def test_a_ring_with_a_writer_is_not_removed(instance: str) -> None:
    with StatusWriter(instance, "cam"):
        StatusWriter(instance, "yard").close()
        with pytest.raises(ShmError, match=r"in use: .*-cam-status-1 \(process \d+\)"):
            names.unlink_instance(instance)
        assert [path.name.split("-")[2] for path in names.list_instance(instance)] == ["cam"]


def test_the_gateway_is_woken_by_a_second_stream_whose_queue_was_removed(instance: str) -> None:
    """Its viewers got a second of video at a time from then on."""
    with (
        closing(CameraReaders(instance, "cam", has_view=True)) as readers,
        PacketWriter(instance, "cam", seconds=2, max_mib=1, kind=names.VIEW) as writer,
    ):
        writer.start_stream(stream_info())
        posix_ipc.unlink_message_queue(RingName(instance, "cam", names.VIEW).queue("gateway"))
        readers.forget_removed()
        put_packet(writer, 1, key=True)  # the writer looks after the names, too
        put_packet(writer, 2)
        assert readers.view is not None
        assert readers.view.wakeup is not None
        assert readers.view.wakeup.wait(1)


def test_readers_do_not_list_a_crowded_folder_for_each_look(
    instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 900,000 files of another user in /dev/shm, the processes of a node did nothing else, and were restarted."""
    scandir = Mock(wraps=os.scandir)
    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(names, "_last_found", names._Found())
    monkeypatch.setattr(names, "_CHEAP_S", -1.0)  # each list counts as expensive
    monkeypatch.setattr(names, "_PAUSES", 1e6)
    with StatusReader(instance, "cam") as reader:
        for _ in range(100):
            assert reader.read() is None
        assert scandir.call_count == 1
        with StatusWriter(instance, "cam") as writer:
            writer.write(CameraStatus(CameraState.LIVE, 0, 0))
            names._last_found.valid_s = 0
            assert reader.read() is not None
