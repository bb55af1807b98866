"""The detector and frames in (played) GPU memory: which memory it names to the server, and when it asks for another."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fake_cuda import FakeCuda
from support.fake_triton import INFO, FakeTriton
from support.rings import frame_stamp, put_frame
from tridetr.config import Config
from tridetr.detector.regions import Regions
from tridetr.detector.service import Detector
from tridetr.errors import CudaError, ShmError
from tridetr.model_card import ModelInfo
from tridetr.shm.boards import DemandReader
from tridetr.shm.frames import FrameLease, FrameReader, FrameWriter

W, H = 64, 32
GPU_MODEL = ModelInfo("rfdetr_trt", "1", "tensorrt", "unknown", "fp16", {"person": 1})
CPU_MODEL = ModelInfo("rfdetr_ort", "1", "onnxruntime", "openvino", "bf16", {"person": 1})


@pytest.fixture
def reader(instance: str) -> Iterator[FrameReader]:
    with FrameReader(instance, "cam", "detector") as opened:
        yield opened


def cuda_writer(instance: str, gpu: FakeCuda) -> FrameWriter:
    return FrameWriter(instance, "cam", width=W, height=H, device=gpu.memory())


def newest(reader: FrameReader) -> FrameLease:
    lease = reader.lease_newest()
    assert lease is not None
    return lease


def put_device_frame(writer: FrameWriter, value: int) -> None:
    slot = writer.begin()
    assert slot is not None
    assert slot.device is not None
    slot.device.mark_written(host=False)
    writer.publish(slot, frame_stamp(value))


async def pixel(regions: Regions, client: FakeTriton, reader: FrameReader) -> tuple[str, int]:
    """Infer the newest frame; return the region and the value that the server saw."""
    with newest(reader) as lease:
        place = await regions.place(lease)
        await client.infer(place)
        return client.asked[-1]


async def test_gpu_memory_is_named_where_the_server_can_open_it(
    instance: str, gpu: FakeCuda, reader: FrameReader
) -> None:
    client = FakeTriton(info=GPU_MODEL, gpu=gpu.folder)
    regions = Regions(client)
    regions.use_model(GPU_MODEL)
    with cuda_writer(instance, gpu) as writer:
        for value in (5, 6):
            put_frame(writer, value)
            assert await pixel(regions, client, reader) == (f"{_ring(reader)}-cuda-1", value)
        assert len(client.registered) == 1
        client.restart()
        regions.forget()
        put_frame(writer, 7)
        assert (await pixel(regions, client, reader))[1] == 7
        assert len(client.registered) == 2
        await regions.close()
    assert not client.regions


def _ring(reader: FrameReader) -> str:
    region = reader.region
    assert region is not None
    return region.shm_name


async def test_memory_is_held_until_the_server_has_let_go_of_it(
    instance: str, gpu: FakeCuda, reader: FrameReader
) -> None:
    client = FakeTriton(info=GPU_MODEL, gpu=gpu.folder)
    regions = Regions(client)
    with cuda_writer(instance, gpu) as writer:
        put_frame(writer, 1)
        with newest(reader) as lease:
            old = (await regions.place(lease)).region
        writer.resize(W * 2, H)
        put_frame(writer, 2)
        with newest(reader) as lease:
            new = (await regions.place(lease)).region
        put_frame(writer, 3)
        assert len(gpu.allocations) == 2
        regions.retire(old)
        await _tasks()
        assert client.unregistered == [old.shm_name]
        put_frame(writer, 4)
        assert len(gpu.allocations) == 1
        assert client.regions == {new.shm_name: new}
        await regions.close()


async def _tasks() -> None:
    """Let what was begun beside the work come to its end."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_restarted_camera_is_registered_anew(
    instance: str, gpu: FakeCuda, reader: FrameReader
) -> None:
    client = FakeTriton(info=GPU_MODEL, gpu=gpu.folder)
    regions = Regions(client)
    for value in (1, 2, 3):
        with cuda_writer(instance, gpu) as writer:
            put_frame(writer, value)
            assert (await pixel(regions, client, reader))[1] == value
    assert len(set(client.registered)) == 3
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
    reader: FrameReader,
    caplog: pytest.LogCaptureFixture,
    device: str,
    model: ModelInfo,
    has_gpu: bool,
    uses: bool,
    said: str,
) -> None:
    client = FakeTriton(info=model, gpu=gpu.folder if has_gpu else None)
    regions = Regions(client, device)  # type: ignore[arg-type]
    regions.use_model(model)
    with cuda_writer(instance, gpu) as writer, caplog.at_level(logging.INFO):
        for value in (1, 2, 3):
            put_frame(writer, value)
            name, seen = await pixel(regions, client, reader)
            assert (("-cuda-" in name), seen) == (uses, value)
        regions.use_model(
            model
        )  # a restarted server is asked again, but the same thing is not said again
        put_frame(writer, 4)
        assert (await pixel(regions, client, reader))[1] == 4
        await regions.close()
    assert caplog.text.count("system shared memory") == bool(said)
    assert said in caplog.text


async def test_forced_and_refused_is_an_error(
    instance: str, gpu: FakeCuda, reader: FrameReader
) -> None:
    regions = Regions(FakeTriton(info=GPU_MODEL), "cuda")
    with cuda_writer(instance, gpu) as writer:
        put_frame(writer, 1)
        with newest(reader) as lease:
            with pytest.raises(
                CudaError, match=r"no GPU here.*shareProcessNamespace.*device: auto"
            ):
                await regions.place(lease)
        writer.resize(W * 2, H)
        put_frame(writer, 2)
        assert len(gpu.allocations) == 1  # nothing holds the old memory


async def test_memory_of_a_dead_writer_is_no_refusal(
    instance: str, gpu: FakeCuda, reader: FrameReader
) -> None:
    """Nobody can open it any more; that tells nothing about the server."""
    client = FakeTriton(info=GPU_MODEL, gpu=gpu.folder)
    regions = Regions(client, "cuda")
    with cuda_writer(instance, gpu) as writer:
        put_frame(writer, 1)
    name, seen = await pixel(regions, client, reader)
    assert ("-cuda-" in name, seen) == (False, 1)
    with cuda_writer(instance, gpu) as writer:
        put_frame(writer, 2)
        name, seen = await pixel(regions, client, reader)
        assert ("-cuda-" in name, seen) == (True, 2)
        await regions.close()


@pytest.mark.parametrize("restarted", [False, True])
async def test_registered_memory_of_a_dead_writer_is_not_read(
    instance: str, gpu: FakeCuda, reader: FrameReader, restarted: bool
) -> None:
    """Its last frame is inferred again, after an error: a server may not survive reading what is gone."""
    client = FakeTriton(info=GPU_MODEL, gpu=gpu.folder)
    regions = Regions(client)
    with cuda_writer(instance, gpu) as writer:
        put_frame(writer, 1)
        assert "-cuda-" in (await pixel(regions, client, reader))[0]
        lease = newest(reader)
        writer.resize(W * 2, H)  # the memory stays, as long as it is leased
        put_frame(writer, 2)
        assert await regions.place(lease) is lease.device
        lease.release()
        assert "-cuda-" in (await pixel(regions, client, reader))[0]
        lease = newest(reader)
    if restarted:
        writer = FrameWriter(instance, "cam", width=W * 2, height=H, device=gpu.memory())
    assert await regions.place(lease) is lease
    lease.release()
    if restarted:
        writer.close()
    await regions.close()


async def test_a_frame_that_only_the_gpu_has_is_never_read_from_the_host(
    instance: str, gpu: FakeCuda, reader: FrameReader
) -> None:
    client = FakeTriton(info=GPU_MODEL)
    regions = Regions(client)
    with cuda_writer(instance, gpu) as writer:
        put_device_frame(writer, 1)
        with newest(reader) as lease, pytest.raises(ShmError, match="GPU memory only"):
            await regions.place(lease)
    assert client.registered == []


async def test_capture_is_asked_for_host_pictures(
    instance: str, tmp_path: Path, gpu: FakeCuda
) -> None:
    """A server without GPU, a camera that is decoded on one: results come all the same."""
    config = Config.model_validate({
        "instance": instance,
        "cameras": {"cam": {"source": "synthetic"}},
        "run_dir": tmp_path,
        "state_dir": tmp_path,
    })  # fmt: skip
    client = FakeTriton(info=GPU_MODEL)
    stop = asyncio.Event()
    with DemandReader(instance, "cam") as demand, cuda_writer(instance, gpu) as writer:
        task = asyncio.create_task(Detector(config, client).run(stop))
        try:
            deadline = time.monotonic() + 20
            while not client.asked:
                assert time.monotonic() < deadline
                gpu.wanted = demand.wanted()
                put_device_frame(writer, 9)
                await asyncio.sleep(0.02)
        finally:
            stop.set()
            await asyncio.gather(task, return_exceptions=True)
    assert gpu.copies
    assert set(gpu.copies) == {"down"}
    assert all("-cuda-" not in name for name in client.registered)


async def test_no_demand_without_need(instance: str, gpu: FakeCuda, tmp_path: Path) -> None:
    config = Config.model_validate({
        "instance": instance,
        "cameras": {"cam": {"source": "synthetic"}},
        "run_dir": tmp_path,
        "state_dir": tmp_path,
    })  # fmt: skip
    client = FakeTriton(info=GPU_MODEL, gpu=gpu.folder)
    stop = asyncio.Event()
    with DemandReader(instance, "cam") as demand, cuda_writer(instance, gpu) as writer:
        task = asyncio.create_task(Detector(config, client).run(stop))
        try:
            deadline = time.monotonic() + 20
            while len(client.asked) < 3:
                assert time.monotonic() < deadline
                put_device_frame(writer, 9)
                await asyncio.sleep(0.02)
            assert not demand.wanted()
        finally:
            stop.set()
            await asyncio.gather(task, return_exceptions=True)
    assert gpu.copies == []
