"""The detector with frames in simulated GPU memory: which memory the server reads, and when that changes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest

from support.fake_cuda import FakeCuda, GpuCamera
from support.fake_triton import INFO, FakeTriton
from support.waiting import slack
from tridetr.config import Config
from tridetr.detector.detector_process import Detector
from tridetr.detector.frames import NewestFrames
from tridetr.detector.registrations import Registrations
from tridetr.errors import CudaError
from tridetr.model_card import ModelInfo
from tridetr.shm.frames import DeviceFrameLease, DeviceFrameReader, FrameLease

GPU_MODEL = ModelInfo("rfdetr_trt", "1", "tensorrt", "unknown", "fp16", {"person": 1})
CPU_MODEL = ModelInfo("rfdetr_ort", "1", "onnxruntime", "openvino", "bf16", {"person": 1})


@pytest.fixture
def reader(instance: str) -> Iterator[DeviceFrameReader]:
    with DeviceFrameReader(instance, "cam", "detector") as opened:
        yield opened


def newest(reader: DeviceFrameReader) -> DeviceFrameLease:
    lease = reader.lease_newest()
    assert lease is not None
    return lease


async def pixel(
    regions: Registrations, client: FakeTriton, reader: DeviceFrameReader
) -> tuple[str, int]:
    """Infer the newest frame on the GPU; return the region and the value that the server saw."""
    with newest(reader) as lease:
        place = await regions.place(lease)
        assert place is not None
        await client.infer(place)
        return client.asked[-1]


async def test_gpu_memory_is_used_if_the_server_can_open_it(
    instance: str, gpu: FakeCuda, reader: DeviceFrameReader
) -> None:
    client = FakeTriton(info=GPU_MODEL, gpu=gpu.folder)
    regions = Registrations(client)
    regions.use_model(GPU_MODEL)
    with GpuCamera(instance, gpu) as camera:
        for value in (5, 6):
            camera.put(value)
            name = f"tridetr-{instance}-cam-device-1-cuda-1"
            assert await pixel(regions, client, reader) == (name, value)
        assert len(client.registered) == 1
        client.restart()
        regions.forget()
        camera.put(7)
        assert (await pixel(regions, client, reader))[1] == 7
        assert len(client.registered) == 2
        await regions.close()
    assert not client.regions


async def test_memory_is_held_until_the_server_has_unregistered_it(
    instance: str, gpu: FakeCuda, reader: DeviceFrameReader
) -> None:
    client = FakeTriton(info=GPU_MODEL, gpu=gpu.folder)
    regions = Registrations(client)
    with GpuCamera(instance, gpu) as camera:
        camera.put(1)
        await pixel(regions, client, reader)
        with newest(reader) as lease:
            old = lease.device.region
        camera.writer.resize(128, 32)
        camera.put(2)
        await pixel(regions, client, reader)
        camera.put(3)
        assert len(gpu.allocations) == 2
        regions.retire(old)
        for _ in range(5):
            await asyncio.sleep(0)
        assert client.unregistered == [old.shm_name]
        camera.put(4)
        assert len(gpu.allocations) == 1
        await regions.close()


@pytest.mark.parametrize(
    ("device", "model", "has_gpu", "uses", "said"),
    [
        ("auto", GPU_MODEL, True, True, ""),
        ("auto", INFO, True, False, "the model runs on the CPU"),
        ("auto", CPU_MODEL, True, False, "the model runs on the CPU"),
        ("auto", ModelInfo("m", "1", "onnxruntime", "auto", "fp32"), True, True, ""),  # not known
        ("auto", GPU_MODEL, False, False, "no GPU here"),
        ("cpu", GPU_MODEL, True, False, ""),
        ("cuda", GPU_MODEL, True, True, ""),
    ],
)
async def test_which_memory_is_used(
    instance: str,
    gpu: FakeCuda,
    reader: DeviceFrameReader,
    caplog: pytest.LogCaptureFixture,
    device: Literal["auto", "cpu", "cuda"],
    model: ModelInfo,
    has_gpu: bool,
    uses: bool,
    said: str,
) -> None:
    client = FakeTriton(info=model, gpu=gpu.folder if has_gpu else None)
    regions = Registrations(client, device)
    regions.use_model(model)
    with GpuCamera(instance, gpu) as camera, caplog.at_level(logging.INFO):
        # A restarted server is tried again, but the same reason is not logged again.
        for _ in range(2):
            for value in (1, 2, 3):
                camera.put(value)
                with newest(reader) as lease:
                    assert ((await regions.place(lease)) is not None) is uses
                assert regions.may_open_device is uses
            regions.use_model(model)
        await regions.close()
    assert caplog.text.count("system shared memory") == bool(said)
    assert said in caplog.text


async def test_forced_and_refused_is_an_error(
    instance: str, gpu: FakeCuda, reader: DeviceFrameReader
) -> None:
    regions = Registrations(FakeTriton(info=GPU_MODEL), "cuda")
    with GpuCamera(instance, gpu) as camera:
        camera.put(1)
        with newest(reader) as lease:
            with pytest.raises(
                CudaError, match=r"no GPU here.*shareProcessNamespace.*device: auto"
            ):
                await regions.place(lease)


async def test_memory_of_a_dead_process_is_never_read(
    instance: str, gpu: FakeCuda, reader: DeviceFrameReader
) -> None:
    """A server may crash if it reads such memory, and failing to open it proves nothing about the server."""
    client = FakeTriton(info=GPU_MODEL, gpu=gpu.folder)
    regions = Registrations(client, "cuda")
    with GpuCamera(instance, gpu) as camera:
        camera.put(1)
        unregistered = newest(reader)
        camera.stop_gpu()
        assert await regions.place(unregistered) is None
        unregistered.release()
    with GpuCamera(instance, gpu) as camera:
        camera.put(2)
        assert (await pixel(regions, client, reader))[1] == 2
        registered = newest(reader)
        camera.stop_gpu()
        assert await regions.place(registered) is None
        registered.release()
    await regions.close()


def test_frames_in_gpu_memory_are_leased_while_the_gpu_process_runs(
    instance: str, gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    with NewestFrames(instance, "cam") as frames, GpuCamera(instance, gpu) as camera:
        first = camera.put(1)
        for use, kind in ((True, DeviceFrameLease), (False, FrameLease)):
            lease = frames.lease(0, gpu=use)
            assert isinstance(lease, kind)
            with lease:
                assert lease.sequence == first
                with frames.host_of(lease) or pytest.fail("the host has it too") as host:
                    assert host.planes.max() == 1
        uploader, camera.uploader = camera.uploader, None  # it hangs
        camera.put(2)
        assert frames.lease(first, gpu=True) is None  # its upload may be in progress
        monkeypatch.setattr("tridetr.detector.frames._LATE_S", 0.0)
        with frames.lease(first, gpu=True) or pytest.fail("no frame") as lease:
            assert isinstance(lease, FrameLease)
        camera.uploader = uploader
        second = camera.put(3)
        with frames.lease(first, gpu=True) or pytest.fail("no frame") as lease:
            assert isinstance(lease, DeviceFrameLease)
            assert lease.sequence == second
        camera.stop_gpu()
        camera.put(4)
        with frames.lease(second, gpu=True) or pytest.fail("no frame") as lease:
            assert isinstance(lease, FrameLease)


@asynccontextmanager
async def detecting(instance: str, folder: Path, client: FakeTriton) -> AsyncIterator[None]:
    config = Config.model_validate({
        "instance": instance,
        "cameras": {"cam": {"source": "synthetic"}},
        "run_dir": folder,
        "state_dir": folder,
    })  # fmt: skip
    stop = asyncio.Event()
    task = asyncio.create_task(Detector(config, client).run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)


async def until(camera: GpuCamera, condition: Callable[[], bool]) -> None:
    """Publish frames until a condition holds."""
    deadline = time.monotonic() + slack(20)
    value = 0
    while not condition():
        assert time.monotonic() < deadline
        value = value % 200 + 1
        camera.put(value)
        await asyncio.sleep(0.02)


async def test_results_continue_without_the_gpu_process_and_return_to_it(
    instance: str, gpu: FakeCuda, tmp_path: Path
) -> None:
    client = FakeTriton(info=GPU_MODEL, gpu=gpu.folder)

    def last() -> str:
        return client.asked[-1][0] if client.asked else ""

    with GpuCamera(instance, gpu) as camera:
        async with detecting(instance, tmp_path, client):
            await until(camera, lambda: last().endswith("-cuda-1"))
            camera.stop_gpu()
            await until(camera, lambda: last().endswith("-frames-1"))
            camera.start_gpu()
            await until(camera, lambda: last().endswith("-cuda-2"))


async def test_a_server_without_a_gpu_reads_the_host(
    instance: str, gpu: FakeCuda, tmp_path: Path
) -> None:
    client = FakeTriton(info=GPU_MODEL)
    with GpuCamera(instance, gpu) as camera:
        async with detecting(instance, tmp_path, client):
            await until(camera, lambda: len(client.asked) > 3)
    assert {name for name, _ in client.asked} == {f"tridetr-{instance}-cam-frames-1"}
