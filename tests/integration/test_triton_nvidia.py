"""`tridetr triton` with a server in the layout of NVIDIA's container, which includes native backends."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from support.data import ORACLE, shared
from support.nvidia_server import VERSION, NvidiaServer
from support.triton import SharedFrame, running_triton, triton_config
from tridetr.doctor.parts import check_provider, check_server
from tridetr.errors import ModelError, TritonError
from tridetr.machine import Gpus, Machine, find_gpus
from tridetr.paths import model_repository_dir
from tridetr.plan import Placement
from tridetr.triton import repository, setup, triton_process
from tridetr.triton.client import TritonClient
from tridetr.triton.placement import BATCH_DELAY_US, place

BUNDLED = model_repository_dir() / "rfdetr_ort" / "1" / "model.onnx"
KIND_CPU = model_config_pb2.ModelInstanceGroup.KIND_CPU


def _regions() -> set[Path]:
    """Return the regions of the Python backend under a native name; a real native backend creates none."""
    return set(Path("/dev/shm").glob("triton_onnxruntime_backend_shm_region_*"))


@pytest.fixture
def nvidia(tmp_path: Path) -> Iterator[NvidiaServer]:
    before = _regions()
    yield NvidiaServer(tmp_path / "opt" / "tritonserver", sys.executable)
    for region in _regions() - before:
        region.unlink()


async def test_it_serves_with_the_native_backend(tmp_path: Path, nvidia: NvidiaServer) -> None:
    config = triton_config(tmp_path, shared(*ORACLE), server_dir=str(nvidia.home))
    (finding,) = check_server(config)
    assert finding.level == "ok"
    assert f"{VERSION}, its own backend onnxruntime" in finding.text
    assert not list(check_provider(config))  # ONNX Runtime's Python package is not used
    with running_triton(config) as triton:
        before = await asyncio.to_thread(triton.endpoint)
        line = nvidia.started["line"]
        assert f"--backend-directory={nvidia.home / 'backends'}" in line
        assert "--allow-client-shm=true" in line
        assert not [word for word in line if word.startswith("--backend-config=python")]
        environment = nvidia.started["environment"]
        assert environment["LD_LIBRARY_PATH"].startswith(str(nvidia.home / "lib"))
        assert not (config.run_dir / "triton" / "backends").exists()
        text = (config.run_dir / "triton/models/rfdetr_ort/config.pbtxt").read_text()
        parameters = text_format.Parse(text, model_config_pb2.ModelConfig()).parameters
        assert "engine_report" not in parameters  # parameters that only our backend reads
        assert "classes" in parameters
        async with TritonClient(config) as client:
            info = await client.model()
            assert (info.engine, info.provider) == ("onnxruntime", "CPUExecutionProvider")
            assert not info.classes  # the recorded model names none
            report = json.loads((config.run_dir / "triton" / "engine.json").read_text())
            assert report["reason"] == "the server's native backend, on CPU"
            with SharedFrame(config.instance, 320, 240) as slot:
                slot.planes[:] = 128
                await client.register(slot.frame.region)
                assert (await client.infer(slot.frame)).boxes.shape == (300, 4)
                os.kill(before.pid or 0, signal.SIGKILL)
                after = await asyncio.to_thread(triton.endpoint, before.pid)
                assert after.pid != before.pid
                await client.register(slot.frame.region)
                found = await client.infer(slot.frame)
                assert np.isfinite(found.boxes).all()


def test_an_engine_without_a_gpu_is_refused_with_cause_and_remedy(
    tmp_path: Path, nvidia: NvidiaServer
) -> None:
    config = triton_config(tmp_path, shared(*ORACLE), server_dir=str(nvidia.home))
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"name": "rfdetr_trt"})}
    )
    with pytest.raises(ModelError, match=r"rfdetr_trt needs an NVIDIA GPU: .*Remedy: .*rfdetr_ort"):
        triton_process.run(config, threading.Event())


async def test_server_accepts_the_configuration_rendered_for_a_gpu(
    tmp_path: Path, nvidia: NvidiaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton itself validates the accelerator with its parameters and the batching delay, but not the placement."""

    def place_as_on_a_gpu(rendered: Any, where: Placement, *rest: Any, **more: Any) -> None:
        place(rendered, dataclasses.replace(where, gpu=True), *rest, **more)
        (group,) = rendered.instance_group
        group.kind = KIND_CPU
        del group.gpus[:]

    monkeypatch.setattr(repository, "place", place_as_on_a_gpu)
    monkeypatch.setattr(setup, "find_machine", lambda _: Machine(Gpus(1)))
    monkeypatch.setattr(
        setup,
        "place_model",
        lambda *_, **__: Placement("onnxruntime", True, gpu=False),
    )
    config = triton_config(tmp_path, BUNDLED, server_dir=str(nvidia.home))
    model = config.model.model_copy(update={"provider": "tensorrt"})
    with running_triton(config.model_copy(update={"model": model})) as triton:
        await asyncio.to_thread(triton.endpoint)
        text = (config.run_dir / "triton/models/rfdetr_ort/config.pbtxt").read_text()
        assert 'name: "tensorrt"' in text
        assert f"max_queue_delay_microseconds: {BATCH_DELAY_US}" in text
        async with TritonClient(config) as client:
            with SharedFrame(config.instance, 320, 240) as slot:
                await client.register(slot.frame.region)
                await client.infer(slot.frame)


def test_gpu_unusable_by_the_server_is_reported_with_the_remedy(
    tmp_path: Path, nvidia: NvidiaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CUDA driver reports a GPU, but this server finds none and rejects the placement with its own message."""
    if find_gpus().count:
        pytest.skip("there is a GPU here")
    monkeypatch.setattr(setup, "find_machine", lambda _: Machine(Gpus(1)))
    config = triton_config(tmp_path, shared(*ORACLE), server_dir=str(nvidia.home))
    with pytest.raises(TritonError, match=r"does not start: .*[Gg][Pp][Uu].*device: cpu"):
        triton_process.run(config, threading.Event())
