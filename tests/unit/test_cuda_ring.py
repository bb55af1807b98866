"""Frames in (played) GPU memory: who copies what, when it may be freed, and what happens when the GPU fails."""

from __future__ import annotations

from typing import Any

import pytest

from support.fake_cuda import FakeCuda, fill, read_device
from support.rings import frame_stamp, put_frame
from tridetr.cuda import memory, ring
from tridetr.errors import CudaError, ShmError
from tridetr.shm import layout, names
from tridetr.shm.device import ALIGNMENT, DEVICE_MEMORY
from tridetr.shm.frames import FrameLease, FrameReader, FrameWriter
from tridetr.shm.hold import DeviceHold

W, H = 64, 32


def cuda_writer(
    instance: str, gpu: FakeCuda, *, forced: bool = False, **changes: Any
) -> FrameWriter:
    sizes = {"width": W, "height": H, "device": gpu.memory(forced=forced)}
    return FrameWriter(instance, "cam", **sizes | changes)


def newest(reader: FrameReader, after: int = 0) -> FrameLease:
    lease = reader.lease_newest(after)
    assert lease is not None
    return lease


def put_device_frame(
    writer: FrameWriter, gpu: FakeCuda, value: int, *, host: bool = False, **stamp: Any
) -> int:
    """Publish a frame that a decoder wrote on the GPU; its host planes are 99 unless somebody copies it."""
    slot = writer.begin()
    assert slot is not None
    planes = slot.device
    assert planes is not None
    slot.planes[:] = value if host else 99
    gpu.queue(planes.stream, lambda: fill(planes.pointer, planes.nbytes, value))
    planes.mark_written(host)
    return writer.publish(slot, frame_stamp(value, **stamp))


def device_value(gpu: FakeCuda, lease: FrameLease) -> int:
    assert lease.device is not None
    pixels = read_device(gpu.folder, lease.device)
    assert pixels.min() == pixels.max()
    return int(pixels[0, 0])


# ---------------------------------------------------------------- what is copied


@pytest.mark.parametrize(
    ("host", "wanted", "lossless", "copies", "device_only"),
    [
        (False, False, False, [], True),
        (False, True, False, ["down"], False),
        (
            False,
            False,
            True,
            ["down"],
            False,
        ),  # nobody may skip it, so everybody must be able to read it
        (True, False, False, [], False),
        (True, True, True, [], False),
    ],
)
def test_a_frame_born_on_the_gpu(
    instance: str,
    gpu: FakeCuda,
    host: bool,
    wanted: bool,
    lossless: bool,
    copies: list[str],
    device_only: bool,
) -> None:
    gpu.wanted = wanted
    with (
        cuda_writer(instance, gpu) as writer,
        FrameReader(instance, "cam", "gateway") as reader,
    ):
        put_device_frame(writer, gpu, 7, host=host, lossless=lossless)
        assert gpu.copies == copies
        with newest(reader) as lease:
            assert lease.device_only == device_only
            assert device_value(gpu, lease) == 7
            assert int(lease.planes.max()) == (99 if device_only else 7)


def test_a_slot_forgets_what_its_last_frame_was(instance: str, gpu: FakeCuda) -> None:
    with (
        cuda_writer(instance, gpu) as writer,
        FrameReader(instance, "cam", "gateway") as reader,
    ):
        for value in range(1, 9):
            if value % 2:
                put_frame(writer, value)
            else:
                put_device_frame(writer, gpu, value)
            with newest(reader) as lease:
                assert lease.device_only == (value % 2 == 0)
                assert device_value(gpu, lease) == value
        # Two slots take turns here: each kind had one. Now the other way round.
        put_frame(writer, 9)
        for value in (10, 11, 12):
            put_frame(writer, value)
            with newest(reader) as lease:
                assert not lease.device_only
                assert (device_value(gpu, lease), int(lease.planes.max())) == (value, value)


def test_an_abandoned_slot_uploads_nothing(instance: str, gpu: FakeCuda) -> None:
    with cuda_writer(instance, gpu) as writer:
        slot = writer.begin()
        assert slot is not None
        writer.abandon(slot)
        assert gpu.copies == []


def test_slots_do_not_overlap(instance: str, gpu: FakeCuda) -> None:
    places = set()
    with (
        cuda_writer(instance, gpu, slots=5, width=34, height=2) as writer,
        FrameReader(instance, "cam", "gateway") as reader,
    ):
        leases = []
        for value in range(1, 6):
            put_frame(writer, value)
            leases.append(newest(reader))
        for value, lease in enumerate(leases, start=1):
            assert device_value(gpu, lease) == value
            assert lease.device is not None
            assert lease.device.pixels_offset % ALIGNMENT == 0
            places.add(lease.device.pixels_offset)
    assert len(places) == 5


def test_a_source_sees_where_to_write(instance: str, gpu: FakeCuda) -> None:
    with cuda_writer(instance, gpu) as writer:
        slot = writer.begin()
        assert slot is not None
        planes = slot.device
        assert planes is not None
        (start,) = gpu.allocations
        assert planes.pointer == start
        assert planes.nbytes == W * H * 3 // 2
        assert planes.device_id == 0
        assert planes.stream in gpu.made
        assert not planes.host_wanted
        gpu.wanted = True
        assert planes.host_wanted
        writer.abandon(slot)


# ---------------------------------------------------------------- regions


def test_a_restarted_writer_is_another_region(instance: str, gpu: FakeCuda) -> None:
    regions = []
    with FrameReader(instance, "cam", "detector") as reader:
        for value in range(1, 4):
            with cuda_writer(instance, gpu) as writer:
                put_frame(writer, value)
                with newest(reader) as lease:
                    assert lease.device is not None
                    regions.append(lease.device.region)
                    assert device_value(gpu, lease) == value
    assert len({region.shm_name for region in regions}) == 3
    assert len({region.handle for region in regions}) == 3
    assert len({region.ring for region in regions}) == 1  # the same file all the time
    assert all(region.shm_name.startswith(region.ring.shm_name) for region in regions)


def test_host_and_device_writers_take_turns(instance: str, gpu: FakeCuda) -> None:
    """A reader must not go on using the device memory of a writer that is gone."""
    with FrameReader(instance, "cam", "detector") as reader:
        for value in range(1, 7):
            device = gpu.memory() if value % 2 else None
            with FrameWriter(instance, "cam", width=W, height=H, device=device) as writer:
                for _ in range(3):
                    put_frame(writer, value)
                    with newest(reader) as lease:
                        assert (lease.device is not None) == (device is not None)
                        assert int(lease.planes[0, 0]) == value


@pytest.mark.parametrize("keeper", ["lease", "registration"])
def test_memory_lives_until_nobody_uses_it(instance: str, gpu: FakeCuda, keeper: str) -> None:
    with (
        cuda_writer(instance, gpu) as writer,
        FrameReader(instance, "cam", "detector") as reader,
    ):
        put_frame(writer, 1)
        lease = newest(reader)
        assert lease.device is not None
        place = lease.device
        hold = DeviceHold(place.region)
        assert hold.is_current()
        if keeper == "lease":
            hold.close()
        else:
            lease.release()
        writer.resize(W * 2, H)
        assert keeper == "lease" or not hold.is_current()
        put_frame(writer, 2)
        assert len(gpu.allocations) == 2
        assert int(read_device(gpu.folder, place).max()) == 1
        lease.release()
        if keeper == "registration":
            hold.close()
        put_frame(writer, 3)
        assert len(gpu.allocations) == 1
        with pytest.raises(FileNotFoundError):
            read_device(gpu.folder, place)


def test_a_reader_that_comes_late_finds_no_freed_memory(instance: str, gpu: FakeCuda) -> None:
    """It has not seen yet that the ring goes on in another file, whose device memory is freed."""
    with (
        cuda_writer(instance, gpu) as writer,
        FrameReader(instance, "cam", "detector") as reader,
    ):
        put_frame(writer, 1)
        newest(reader).release()
        mapping = reader._mapping
        assert mapping is not None
        writer.resize(W * 2, H)
        put_frame(writer, 2)
        assert len(gpu.allocations) == 1
        assert reader._lease(mapping, 0, 0) is None


def test_a_server_that_lets_go_of_nothing_does_not_fill_the_gpu(
    instance: str, gpu: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    holds = []
    with (
        cuda_writer(instance, gpu) as writer,
        FrameReader(instance, "cam", "detector") as reader,
    ):
        for turn in range(1, memory._MOST_RETIRED + 4):
            put_frame(writer, turn)
            with newest(reader) as lease:
                if lease.device is not None:
                    holds.append(DeviceHold(lease.device.region))
                assert int(lease.planes[0, 0]) == turn
            writer.resize(W * (1 + turn % 2), H)
        assert len(gpu.allocations) == memory._MOST_RETIRED
        assert caplog.text.count("earlier regions of this camera open") == 1
        for hold in holds:
            hold.close()
        writer.resize(W * 3, H)
        put_frame(writer, 77)
        with newest(reader) as lease:
            assert device_value(gpu, lease) == 77
    assert gpu.is_clean()


def test_a_hold_needs_the_ring(instance: str, gpu: FakeCuda) -> None:
    with (
        cuda_writer(instance, gpu) as writer,
        FrameReader(instance, "cam", "detector") as reader,
    ):
        put_frame(writer, 1)
        with newest(reader) as lease:
            assert lease.device is not None
            region = lease.device.region
        hold = DeviceHold(region)
        writer.close()
        assert not hold.is_current()
        with cuda_writer(instance, gpu):  # the same file, but an epoch later
            assert not hold.is_current()
        hold.close()
        (names.SHM_DIR / region.ring.shm_name).unlink()
        with pytest.raises(ShmError, match="was removed"):
            DeviceHold(region)


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("method", ["allocate", "ipc_handle", "make_stream", "make_event"])
@pytest.mark.parametrize("forced", [False, True])
def test_no_device_memory(
    instance: str, gpu: FakeCuda, method: str, forced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.fails[method] = CudaError("no room. Remedy: make some")
    if forced:
        with pytest.raises(CudaError, match="no room"):
            cuda_writer(instance, gpu, forced=True)
        assert gpu.is_clean()
        FrameWriter(instance, "cam", width=W, height=H).close()  # the ring is free again
        return
    with (
        cuda_writer(instance, gpu) as writer,
        FrameReader(instance, "cam", "detector") as reader,
    ):
        for width in (W, W * 2, W):
            writer.resize(width, H)
            put_frame(writer, 5)
            with newest(reader) as lease:
                assert lease.device is None
                assert int(lease.planes[0, 0]) == 5
        assert caplog.text.count("no room") == 1
        gpu.fails.clear()
        writer.resize(W * 2, H)  # the next generation tries again
        put_frame(writer, 6)
        with newest(reader) as lease:
            assert device_value(gpu, lease) == 6
    assert gpu.is_clean()


def test_pages_that_cannot_be_pinned_are_only_slow(
    instance: str, gpu: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.fails["pin"] = CudaError("no pinning here")
    with (
        cuda_writer(instance, gpu) as writer,
        FrameReader(instance, "cam", "detector") as reader,
    ):
        put_frame(writer, 5)
        with newest(reader) as lease:
            assert device_value(gpu, lease) == 5
    assert "no pinning here" in caplog.text
    assert gpu.is_clean()


def test_a_gpu_that_fails_is_left(instance: str, gpu: FakeCuda) -> None:
    with (
        cuda_writer(instance, gpu) as writer,
        FrameReader(instance, "cam", "detector") as reader,
    ):
        put_frame(writer, 1)
        newest(reader).release()
        gpu.fails["upload"] = gpu.fails["record"] = CudaError("an illegal memory access")
        slot = writer.begin()
        assert slot is not None
        with pytest.raises(CudaError, match="illegal"):
            writer.publish(slot, frame_stamp(2))
        writer.abandon(slot)
        assert writer.leave_device()
        assert not writer.leave_device()
        put_frame(writer, 3)
        with newest(reader) as lease:
            assert lease.device is None
            assert (lease.sequence, int(lease.planes[0, 0])) == (2, 3)
    assert gpu.is_clean()


def test_a_gpu_that_hangs_is_noticed(
    instance: str, gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "_PATIENCE_S", 0.05)
    with cuda_writer(instance, gpu) as writer:
        gpu.asleep = True
        slot = writer.begin()
        assert slot is not None
        with pytest.raises(CudaError, match="nvidia-smi"):
            writer.publish(slot, frame_stamp(2))
        writer.abandon(slot)
        monkeypatch.setattr(ring, "_PATIENCE_S", 60)  # one wait is enough
        assert writer.leave_device()


@pytest.mark.parametrize(
    ("size", "offset", "epoch"),
    [(0, 0, 1), (W * H, 0, 1), (1 << 30, 1 << 30, 1), (1 << 40, 0, 1), (1 << 30, 1, 1), (1 << 30, 0, 2),
     (1 << 30, 2**64 - 512, 1)],
)  # fmt: skip
def test_hostile_places_are_refused(
    instance: str, gpu: FakeCuda, size: int, offset: int, epoch: int
) -> None:
    with cuda_writer(instance, gpu, slots=3) as writer:
        put_frame(writer, 1)
        slot = writer._slots[0]
        assert slot is not None
        start = slot._table.spans["device"].start
        with names.RingName(instance, "cam", "frames").path(1).open("r+b") as file:
            file.seek(start)
            file.write(DEVICE_MEMORY.pack(b"h" * 64, b"u" * 16, size, offset, epoch, 0))
        with FrameReader(instance, "cam", "detector") as reader:
            assert reader.lease_newest() is None
            assert reader.damaged == 1
            assert "device memory" in str(reader.damage)


def test_the_ring_file_is_that_of_a_host_ring(instance: str, gpu: FakeCuda) -> None:
    """So that a node may change from one kind to the other without a new generation."""
    cuda_writer(instance, gpu).close()
    FrameWriter(instance, "cam", width=W, height=H).close()
    assert len(names.list_instance(instance)) == 1


def test_one_allocation_holds_all_slots(instance: str, gpu: FakeCuda) -> None:
    """Small allocations share a block, and CUDA exports whole blocks: so it takes whole blocks."""
    with cuda_writer(instance, gpu, width=1920, height=1080):
        ((_, allocated),) = gpu.allocations.values()
        assert len(allocated) % (2 << 20) == 0
        assert 6 * 1920 * 1080 * 3 // 2 <= len(allocated) < 6 * 1920 * 1080 * 3 // 2 + (2 << 20)
        ((address, pinned),) = gpu.pinned.items()
        assert address % layout.PAGE == 0
        assert pinned == names.RingName(instance, "cam", "frames").path(1).stat().st_size
