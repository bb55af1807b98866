"""The publisher when the GPU fails: the frame comes all the same, or the process ends, as the configuration wants."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from support.fake_cuda import FakeCuda, read_device
from tridetr.capture.publisher import Publisher
from tridetr.capture.sources.base import Grab, Layout, Picture
from tridetr.config import CameraSection
from tridetr.errors import CudaError
from tridetr.shm.frames import ColorMatrix, ColorRange, FrameReader

W, H = 64, 32
SECTION = CameraSection(source="synthetic")


@pytest.fixture
def reader(instance: str) -> Iterator[FrameReader]:
    with FrameReader(instance, "cam", "detector") as opened:
        yield opened


def picture(value: int, width: int = W) -> Picture:
    planes = (
        np.full((H, width), value, np.uint8),
        np.full((H // 2, width // 2), value, np.uint8),
        np.full((H // 2, width // 2), value, np.uint8),
    )
    return Picture(Layout.I420, planes, width, H, ColorRange.LIMITED, ColorMatrix.BT601)


def publish(publisher: Publisher, value: int, width: int = W) -> int | None:
    shown = picture(value, width)
    grab = Grab(value, time.monotonic_ns(), time.time_ns(), lambda: shown)
    return publisher.publish(grab, shown, 0)


def seen(gpu: FakeCuda, reader: FrameReader) -> tuple[int, int | None]:
    """Return the newest frame's value on the host and on the device."""
    lease = reader.lease_newest()
    assert lease is not None
    with lease:
        device = lease.device
        value = int(read_device(gpu.folder, device)[0, 0]) if device is not None else None
        return int(lease.planes[0, 0]), value


@pytest.mark.parametrize("method", ["upload", "record"])
def test_a_gpu_that_fails_costs_no_frame(
    instance: str,
    gpu: FakeCuda,
    reader: FrameReader,
    caplog: pytest.LogCaptureFixture,
    method: str,
) -> None:
    with Publisher(instance, "cam", SECTION, gpu.memory()) as publisher:
        assert publish(publisher, 1) == 1
        assert seen(gpu, reader) == (1, 1)
        gpu.fails[method] = CudaError("an illegal memory access. Remedy: none")
        for value in (2, 3):
            assert publish(publisher, value) == value
            assert seen(gpu, reader) == (value, None)
        gpu.fails.clear()
        assert publish(publisher, 4) == 4
        assert seen(gpu, reader) == (4, None)  # until the ring changes, or the process does
        assert publish(publisher, 5, width=W * 2) == 5
        assert seen(gpu, reader) == (5, 5)
    assert caplog.text.count("system shared memory: an illegal memory access") == 1
    assert gpu.is_clean()


def test_a_gpu_that_must_not_fail_ends_the_process(
    instance: str, gpu: FakeCuda, reader: FrameReader
) -> None:
    with Publisher(instance, "cam", SECTION, gpu.memory(forced=True)) as publisher:
        assert publish(publisher, 1) == 1
        gpu.fails["upload"] = CudaError("an illegal memory access")
        with pytest.raises(CudaError, match="illegal"):
            publish(publisher, 2)
        assert seen(gpu, reader) == (1, 1)
    assert gpu.is_clean()


def test_no_room_on_the_gpu(instance: str, gpu: FakeCuda, reader: FrameReader) -> None:
    gpu.fails["allocate"] = CudaError("out of memory")
    with Publisher(instance, "cam", SECTION, gpu.memory()) as publisher:
        assert publish(publisher, 1) == 1
        assert seen(gpu, reader) == (1, None)
    with Publisher(instance, "cam", SECTION, gpu.memory(forced=True)) as publisher:
        with pytest.raises(CudaError, match="out of memory"):
            publish(publisher, 2)
    assert gpu.is_clean()
