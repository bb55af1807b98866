"""Frames in simulated GPU memory: uploads, when memory may be freed, and failures of the GPU."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from support.fake_cuda import FakeCuda, GpuCamera, read_device
from support.rings import frame_stamp
from tridetr.cuda import ring
from tridetr.cuda.ring import DeviceRing
from tridetr.errors import CudaError, GpuMemoryError, ShmError
from tridetr.shm import layout, names
from tridetr.shm.device_region import ALIGNMENT, DEVICE_MEMORY
from tridetr.shm.frames import DeviceFrameLease, DeviceFrameReader
from tridetr.shm.hold import DeviceHold

W, H = 64, 32


def newest(reader: DeviceFrameReader, after: int = 0) -> DeviceFrameLease:
    lease = reader.lease_newest(after)
    assert lease is not None
    return lease


def device_value(gpu: FakeCuda, lease: DeviceFrameLease) -> int:
    pixels = read_device(gpu.folder, lease.device)
    assert pixels.min() == pixels.max()
    return int(pixels[0, 0])


def test_a_frame_is_uploaded_once_with_its_sequence(instance: str, gpu: FakeCuda) -> None:
    with GpuCamera(instance, gpu) as camera, DeviceFrameReader(instance, "cam", None) as reader:
        assert not reader.is_written()
        for value in range(1, 20):
            sequence = camera.put(value)
            with newest(reader, sequence - 1) as lease:
                assert lease.sequence == sequence
                assert (lease.width, lease.height) == (W, H)
                assert lease.stamp == frame_stamp(lease.stamp.frame_number)
                assert device_value(gpu, lease) == value
        assert reader.is_written()
        assert gpu.copies == ["up"] * 19
        assert len(gpu.allocations) == 1
    assert not reader.is_written()
    assert gpu.is_clean()


def test_a_leased_frame_is_not_overwritten(instance: str, gpu: FakeCuda) -> None:
    with GpuCamera(instance, gpu) as camera, DeviceFrameReader(instance, "cam", None) as reader:
        camera.put(1)
        with newest(reader) as lease:
            for value in range(2, 12):
                camera.put(value)
            assert device_value(gpu, lease) == 1
        with newest(reader) as lease:
            assert device_value(gpu, lease) == 11


def test_capture_may_stop_and_start_again(instance: str, gpu: FakeCuda) -> None:
    """With another picture size, and with a ring whose sequences restart."""
    with DeviceFrameReader(instance, "cam", "detector") as reader:
        with GpuCamera(instance, gpu) as camera:
            camera.put(1)
            camera.writer.resize(W * 2, H)
            sequence = camera.put(2)
            with newest(reader) as lease:
                assert (lease.sequence, lease.width) == (sequence, W * 2)
                assert device_value(gpu, lease) == 2
        for path in names.SHM_DIR.glob(f"tridetr-{instance}-cam-frames-*"):
            path.unlink()
        reader.forget_if_removed()
        with GpuCamera(instance, gpu) as camera:
            assert camera.put(3) == 1
            with newest(reader, sequence) as lease:
                assert (lease.sequence, device_value(gpu, lease)) == (1, 3)
    assert gpu.is_clean()


def test_slots_do_not_overlap(instance: str, gpu: FakeCuda) -> None:
    with DeviceRing(gpu, instance, "cam", slots=4) as device:
        taken = [slot for slot in (device.begin(W, H) for _ in range(4)) if slot is not None]
        offsets = sorted(slot.offset for slot in taken)
        assert all(offset % ALIGNMENT == 0 for offset in offsets)
        assert all(b - a >= slot.nbytes for a, b in itertools.pairwise(offsets) for slot in taken)
        for slot in taken:
            device.abandon(slot)
    assert gpu.is_clean()


@pytest.mark.parametrize("keeper", ["lease", "hold"])
def test_memory_is_kept_while_it_is_used(instance: str, gpu: FakeCuda, keeper: str) -> None:
    """It is used by a reader's lease, and by a server that has it registered (the detector's lock)."""
    with GpuCamera(instance, gpu) as camera, DeviceFrameReader(instance, "cam", None) as reader:
        camera.put(1)
        lease = newest(reader)
        kept = lease if keeper == "lease" else DeviceHold(lease.device.region)
        if keeper == "hold":
            lease.release()
        camera.writer.resize(W * 2, H)
        camera.put(2)
        camera.put(3)
        assert len(gpu.allocations) == 2
        kept.close() if isinstance(kept, DeviceHold) else kept.release()
        camera.put(4)
        assert len(gpu.allocations) == 1


Hoarded = tuple[GpuCamera, DeviceFrameReader, list[DeviceHold]]


@pytest.fixture
def hoarded(instance: str, gpu: FakeCuda) -> Iterator[Hoarded]:
    """A camera that has published frames 0 to 4, each in another size, to a server that releases no memory."""
    holds = []
    with GpuCamera(instance, gpu) as camera, DeviceFrameReader(instance, "cam", None) as reader:
        for number in range(5):
            if number:
                camera.writer.resize(W + 2 * number, H)
            camera.put(number)
            with newest(reader) as lease:
                holds.append(DeviceHold(lease.device.region))
        yield camera, reader, holds
    for hold in holds:
        hold.close()
    assert gpu.is_clean()


def test_a_server_that_releases_nothing_does_not_fill_the_gpu(
    hoarded: Hoarded, gpu: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does it end the work: the camera continues in the size that it has memory for."""
    camera, reader, holds = hoarded
    camera.writer.resize(W + 10, H)
    for number in range(5, 8):
        camera.put(number)
        with newest(reader) as lease:
            assert device_value(gpu, lease) == 4
    assert len(gpu.allocations) == 5
    assert caplog.text.count("earlier regions of GPU memory open") == 1
    camera.writer.resize(W + 8, H)
    camera.put(8)
    with newest(reader) as lease:
        assert device_value(gpu, lease) == 8
    holds.pop(0).close()
    camera.writer.resize(W + 10, H)
    camera.put(9)
    with newest(reader) as lease:
        assert (device_value(gpu, lease), lease.width) == (9, W + 10)


def test_a_lost_name_while_the_server_releases_nothing_affects_one_camera(
    hoarded: Hoarded, instance: str
) -> None:
    camera, _, _ = hoarded
    for path in names.SHM_DIR.glob(f"tridetr-{instance}-cam-device-*"):
        path.unlink()
    assert camera.uploader is not None
    assert camera.uploader._ring._writer is not None
    camera.uploader._ring._writer._ring._look_ns = 0  # the check of the name is due
    with pytest.raises(GpuMemoryError, match="earlier regions of GPU memory open"):
        camera.put(5)


def test_a_hold_follows_the_process(instance: str, gpu: FakeCuda) -> None:
    with DeviceFrameReader(instance, "cam", None) as reader:
        with GpuCamera(instance, gpu) as camera:
            camera.put(1)
            with newest(reader) as lease:
                hold = DeviceHold(lease.device.region)
                assert hold.is_current()
            camera.stop_gpu()
            assert hold.is_lost()
        with GpuCamera(instance, gpu) as camera:
            camera.put(2)
            assert hold.is_lost()  # another process's memory
            with newest(reader) as lease:
                assert lease.device.region.epoch == 2
        hold.close()


@pytest.mark.parametrize("method", ["allocate", "ipc_handle", "upload", "record"])
def test_a_gpu_that_fails_ends_the_work(instance: str, gpu: FakeCuda, method: str) -> None:
    with GpuCamera(instance, gpu) as camera:
        gpu.fails[method] = CudaError("it broke")
        with pytest.raises(CudaError, match="it broke"):
            camera.put(1)
        gpu.fails.clear()
    assert gpu.is_clean()


def test_pages_that_cannot_be_pinned_are_only_slower(
    instance: str, gpu: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.fails["pin"] = CudaError("no")
    with GpuCamera(instance, gpu) as camera, DeviceFrameReader(instance, "cam", None) as reader:
        for value in (5, 6):
            camera.put(value)
        with newest(reader) as lease:
            assert device_value(gpu, lease) == 6
    assert caplog.text.count("copies to the GPU are slower") == 1


def test_a_gpu_that_hangs_is_detected(
    instance: str, gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "_PATIENCE_S", 0.05)
    with GpuCamera(instance, gpu) as camera, DeviceFrameReader(instance, "cam", None) as reader:
        camera.put(1)
        gpu.asleep = True
        with pytest.raises(CudaError, match=r"fake GPU has not finished a copy.*nvidia-smi"):
            camera.put(2)
        gpu.asleep = False
        with newest(reader) as lease:
            assert device_value(gpu, lease) == 1


@pytest.mark.parametrize("size", [layout.MAX_FILE_SIZE * 2, 100])
def test_hostile_memory_locations_are_rejected(instance: str, gpu: FakeCuda, size: int) -> None:
    with DeviceRing(gpu, instance, "cam", slots=4) as device:
        slot = device.begin(W, H)
        assert slot is not None
        assert device._writer is not None
        place = DEVICE_MEMORY.pack(bytes(64), bytes(16), size, 0, 1, 0)
        device._writer.publish(slot.index, frame_stamp(1), 1, place)
        with DeviceFrameReader(instance, "cam", None) as reader:
            assert reader.lease_newest() is None
            assert "device memory" in str(reader.damage)


def test_a_ring_that_is_removed_while_its_memory_is_allocated_is_an_error_to_retry(
    instance: str, gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocate = gpu.allocate

    def lose_the_ring(size: int) -> int:
        for path in names.SHM_DIR.glob(f"tridetr-{instance}-cam-device-*"):
            path.unlink()
        return allocate(size)

    monkeypatch.setattr(gpu, "allocate", lose_the_ring)
    with DeviceRing(gpu, instance, "cam", slots=4) as device:
        with pytest.raises(ShmError, match="was removed"):
            device.begin(W, H)
    assert gpu.is_clean()


def test_a_hold_needs_the_ring(instance: str, gpu: FakeCuda) -> None:
    with GpuCamera(instance, gpu) as camera, DeviceFrameReader(instance, "cam", None) as reader:
        camera.put(1)
        with newest(reader) as lease:
            region = lease.device.region
        (names.SHM_DIR / region.ring.shm_name).unlink()
        with pytest.raises(ShmError, match="was removed"):
            DeviceHold(region)
