"""Registration of GPU memory with the server: gRPC requests, restarts and refusals, with a fake and a real server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode as Status

from support.data import ORACLE, shared
from support.fake_cuda import FakeCuda, GpuCamera
from support.grpc_triton import GrpcTriton, grpc_triton
from support.triton import running_triton, triton_config
from support.waiting import slack
from tridetr.config import Config
from tridetr.detector import registrations
from tridetr.detector.detector_process import run
from tridetr.errors import CudaError, DeviceRegionRefused, ModelUnavailable
from tridetr.shm.detections import DetectionReader
from tridetr.shm.device_region import DevicePlace
from tridetr.shm.frames import DeviceFrameReader
from tridetr.shm.names import unlink_instance
from tridetr.triton.client import TritonClient

W, H = 64, 32


def make_config(instance: str, folder: Path, url: str, **sections: Any) -> Config:
    fields: dict[str, Any] = {
        "instance": instance,
        "cameras": {"cam": {"source": "synthetic"}},
        "run_dir": folder,
        "state_dir": folder,
        "triton": {"url": url, "infer_timeout_s": 2},
    }
    return Config.model_validate(fields | sections)


def newest_place(instance: str) -> DevicePlace:
    with DeviceFrameReader(instance, "cam", None) as reader:
        lease = reader.lease_newest()
        assert lease is not None
        with lease:
            return lease.device


@contextlib.asynccontextmanager
async def detecting(config: Config) -> AsyncIterator[asyncio.Task[None]]:
    stop = asyncio.Event()
    task = asyncio.create_task(run(config, stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)


async def result_of(reader: DetectionReader, sequence: int) -> None:
    """Wait for the result of a frame or of a newer one."""
    deadline = time.monotonic() + slack(20)
    while True:
        lease = reader.lease_newest()
        if lease is not None:
            with lease:
                if lease.stamp.frame_sequence >= sequence:
                    return
        assert time.monotonic() < deadline, "no results"
        await asyncio.sleep(0.02)


async def test_gpu_memory_is_registered_used_and_unregistered(
    instance: str, tmp_path: Path, gpu: FakeCuda
) -> None:
    with grpc_triton() as server:
        config = make_config(instance, tmp_path, server.url)
        with GpuCamera(instance, gpu) as camera:
            camera.put(1)
            place = newest_place(instance)
            async with TritonClient(config) as client:
                await client.register(place.region)
                await client.register(place.region)  # another of that name is replaced
                await client.infer(place)
                await client.unregister(place.region)
    asked = server.cuda_requests
    assert len(asked) == 3  # the second one was refused once
    for request in asked:
        assert request.name == place.region.shm_name
        assert request.raw_handle == place.region.handle
        assert len(request.raw_handle) == 64
        assert (request.device_id, request.byte_size) == (0, place.region.size_bytes)
    assert server.inferred == [
        (place.region.shm_name, place.pixels_offset, W * H * 3 // 2),
    ]
    assert not server._regions


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (Status.INVALID_ARGUMENT, DeviceRegionRefused),  # cudaIpcOpenMemHandle fails
        (Status.UNIMPLEMENTED, DeviceRegionRefused),  # a build without GPU support
        (Status.INTERNAL, DeviceRegionRefused),
        (Status.NOT_FOUND, DeviceRegionRefused),
        (Status.UNAVAILABLE, ModelUnavailable),  # does not mention GPUs
        (Status.DEADLINE_EXCEEDED, ModelUnavailable),
    ],
)
async def test_refused_registration_is_distinguished_from_an_unreachable_server(
    instance: str, tmp_path: Path, gpu: FakeCuda, code: Status, error: type[Exception]
) -> None:
    with grpc_triton() as server:
        server.gpu_refusal = (code, "failed to open CUDA IPC handle: invalid resource handle")
        config = make_config(instance, tmp_path, server.url)
        with GpuCamera(instance, gpu) as camera:
            camera.put(1)
            async with TritonClient(config) as client:
                with pytest.raises(error, match="CUDA IPC handle"):
                    await client.register(newest_place(instance).region)


async def test_a_restarted_server_gets_gpu_memory_again(
    instance: str, tmp_path: Path, gpu: FakeCuda
) -> None:
    with grpc_triton() as server, DetectionReader(instance, "cam", None) as reader:
        config = make_config(instance, tmp_path, server.url)
        with GpuCamera(instance, gpu) as camera:
            async with detecting(config):
                camera.put(1)
                await result_of(reader, 1)
                server.stop()
                server.start()  # has lost all registrations
                camera.put(2)
                await result_of(reader, 2)
                camera.writer.resize(W * 2, H)
                camera.put(3)
                await result_of(reader, 3)
                await until_only(server, f"tridetr-{instance}-cam-device-2-cuda-1")
            assert not server._regions
    assert {region for region, _, _ in server.inferred} == {
        f"tridetr-{instance}-cam-device-1-cuda-1",
        f"tridetr-{instance}-cam-device-2-cuda-1",
    }


async def until_only(server: GrpcTriton, region: str) -> None:
    deadline = time.monotonic() + slack(10)
    while list(server._regions) != [region]:
        assert time.monotonic() < deadline, server._regions
        await asyncio.sleep(0.02)


async def test_real_server_on_a_cpu_refuses_gpu_memory(
    tmp_path: Path,
    gpu: FakeCuda,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is a GPU build without a GPU: results use system shared memory, which is logged once."""
    caplog.set_level(logging.INFO, "tridetr")
    config = triton_config(tmp_path, shared(*ORACLE))
    instance = config.instance
    with running_triton(config) as service:
        service.endpoint()
        with (
            DetectionReader(instance, "cam", None) as reader,
            DeviceFrameReader(instance, "cam", None) as frames,
            GpuCamera(instance, gpu, width=640, height=480) as camera,
        ):
            camera.put(1)
            # This one knows that the model runs on the CPU, and does not even try.
            async with detecting(config):
                await result_of(reader, 1)
            monkeypatch.setattr(registrations, "runs_on_cpu", lambda info: False)
            async with detecting(config):
                for number in range(2, 5):
                    camera.put(number)
                    await result_of(reader, number)
            async with TritonClient(config) as client:
                lease = frames.lease_newest()
                assert lease is not None
                with pytest.raises(CudaError, match="device: cuda is impossible here"):
                    await registrations.Registrations(client, "cuda").place(lease)
                lease.release()
        unlink_instance(instance, ["cam"])
    said = [record.message for record in caplog.records if record.name == "tridetr.detector"]
    said = [message for message in said if "system shared memory" in message]
    assert len(said) == 2, said
    assert "the model runs on the CPU" in said[0]
    assert "CudaSharedMemoryRegister: failed to register" in said[1]
