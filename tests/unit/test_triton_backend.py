"""The Python-based backend, with a fake of the module that only Triton's stub provides."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tridetr.triton
from support.waiting import slack, wait_for
from tridetr.errors import ModelError
from tridetr.paths import model_repository_dir
from tridetr.triton.engine.choice import CPU, CUDA, OPENVINO, Choice
from tridetr.triton.engine.dlpack import Frames
from tridetr.triton.engine.gpu_memory import GpuMemory
from tridetr.triton.engine.static import StaticEngine

MODEL = Path(tridetr.triton.__file__).parent / "backends" / "onnxruntime" / "model.py"


class FakeEngine:
    """Refuses OpenVINO; fails frames whose first byte is 13."""

    def __init__(
        self,
        _: Path,
        choice: Choice,
        *,
        threads: int,
        cache_dir: Path | None,
        profile: dict[str, str],
    ) -> None:
        self.profile = profile
        if choice.provider == OPENVINO:
            raise RuntimeError("no such operator")
        self.nodes = {choice.provider: 1}
        self.threads = threads

    def run(self, frames: np.ndarray) -> list[np.ndarray]:
        if frames.flat[0] == 13:
            raise RuntimeError("unlucky")
        if frames.flat[0] == 14:
            raise ModelError("odd size")
        count = len(frames)
        return [np.zeros((count, 2, 4), "f4"), np.ones((count, 2), "f4"), np.ones((count, 2), "i4")]

    def run_bound(self, frames: Frames) -> list[np.ndarray]:
        self.bound = frames
        return self.run(np.zeros(frames.shape, "u1"))


class TritonTensor(np.ndarray):
    """A fake request with the parts that the backend uses."""

    place = "cpu"

    def is_cpu(self) -> bool:
        return self.place == "cpu"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    warnings: list[str] = []
    utils: Any = ModuleType("triton_python_backend_utils")
    utils.Logger = SimpleNamespace(log_info=lambda text: None, log_warn=warnings.append)
    utils.TritonError = lambda message: SimpleNamespace(message=message)
    utils.InferenceResponse = lambda output_tensors, error=None: SimpleNamespace(
        tensors=output_tensors, error=error
    )
    utils.Tensor = SimpleNamespace(from_dlpack=lambda name, capsule: name)
    utils.get_input_tensor_by_name = lambda request, name: request
    gauges: dict[str, int] = {}

    def family(*, name: str, description: str, kind: int) -> SimpleNamespace:
        def metric(*, labels: dict[str, str]) -> SimpleNamespace:
            return SimpleNamespace(set=lambda value: gauges.update({labels["session"]: value}))

        return SimpleNamespace(Metric=metric)

    family.GAUGE = 1  # type: ignore[attr-defined]
    utils.MetricFamily = family
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    spec = importlib.util.spec_from_file_location("triton_backend_under_test", MODEL)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "Engine", FakeEngine)
    monkeypatch.setattr(module.onnxruntime, "get_available_providers", lambda: [OPENVINO, CPU])
    vars(module)["warnings"] = warnings
    vars(module)["gauges"] = gauges
    return module


def started(backend: ModuleType, **parameters: str) -> Any:
    config = {"parameters": {key: {"string_value": value} for key, value in parameters.items()}}
    model = backend.TritonPythonModel()
    model.initialize({
        "model_config": json.dumps(config),
        "model_instance_kind": "CPU",
        "model_name": "m",
        "model_repository": "/nowhere",
        "model_version": "1",
    })  # fmt: skip
    return model


def test_a_failing_provider_is_replaced_and_this_is_logged(
    backend: ModuleType, tmp_path: Path
) -> None:
    report = tmp_path / "engine.json"
    shapes = {"trt_profile_min_shapes": "frame:1x72x64"}
    model = started(
        backend, engine_report=str(report), precision="int8", intra_op_thread_count="2", **shapes
    )
    assert model._engine.profile == shapes
    assert model._engine.nodes == {CPU: 1}
    assert model._engine.threads == 2
    assert "no such operator" in backend.warnings[0]
    said = json.loads(report.read_text())
    assert (said["engine"], said["provider"], said["precision"]) == (
        "onnxruntime",
        CPU,
        "int8+fp32",
    )


def test_a_configured_provider_is_not_replaced(backend: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="no such operator"):
        started(backend, provider="openvino")


def test_a_failing_request_does_not_affect_others(backend: ModuleType) -> None:
    model = started(backend, provider="cpu")
    requests = [np.full((1, 6, 4), value, np.uint8).view(TritonTensor) for value in (1, 13, 14, 2)]
    answers = model.execute(requests)
    assert [a.error.message if a.error else None for a in answers] == [
        None, "RuntimeError: unlucky", "odd size", None,
    ]  # fmt: skip
    assert answers[3].tensors == ["boxes", "scores", "classes"]


def test_a_frame_in_gpu_memory_is_used_in_place(backend: ModuleType) -> None:
    model = started(backend, provider="cpu")
    tensor = np.full((1, 6, 4), 1, np.uint8).view(TritonTensor)
    tensor.place = "gpu"
    (answer,) = model.execute([tensor])
    assert answer.error is None
    assert model._engine.bound == Frames(tensor.ctypes.data, (1, 6, 4), None)


def test_requests_share_a_batch_on_a_gpu(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real engine on the CPU provider; an invalid request is refused without affecting the others."""
    file = model_repository_dir() / "rfdetr_ort" / "1" / "model.onnx"
    made: list[StaticEngine] = []

    def load(_: Path, choice: Choice, **options: Any) -> StaticEngine:
        assert choice.provider == CUDA
        free = itertools.count(1000 << 20, -(5 << 20))
        memory = GpuMemory(lambda: next(free))
        made.append(StaticEngine(file, Choice(CPU, "fp32", "a test"), memory=memory, **options))
        return made[-1]

    runs: list[int] = []
    monkeypatch.setattr(backend, "StaticEngine", load)
    monkeypatch.setattr(backend.onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(backend.onnxruntime, "preload_dlls", lambda: None, raising=False)
    arrays: dict[str, list[Any]] = {"boxes": [], "scores": [], "classes": []}

    def keep(name: str, capsule: Any) -> str:
        arrays[name].append(capsule)
        return name

    backend.pb_utils.Tensor.from_dlpack = keep
    model = started(backend, provider="cuda", cameras="3", frame_sizes="360x320,1620x1920")
    (engine,) = made
    assert engine.batches == (1, 2, 4)
    assert engine.sizes == [(360, 320), (1620, 1920)]
    sessions = {"weights", "batch 1", "batch 2", "batch 4", "any size", "320x240", "1920x1080"}
    assert backend.gauges == dict.fromkeys(sessions, 5 << 20)
    run_batch = engine._run_batch

    def counted(frames: list[Frames]) -> Any:
        runs.append(len(frames))
        return run_batch(frames)

    monkeypatch.setattr(engine, "_run_batch", counted)
    shapes = ((1, 360, 320), (1, 361, 320), (2, 360, 320), (1, 72, 64))
    requests = [np.full(shape, 9, np.uint8).view(TritonTensor) for shape in shapes]
    answers = model.execute(requests)
    refused = [answer.error.message if answer.error else None for answer in answers]
    assert refused[0] is refused[2] is refused[3] is None
    assert "even height and width" in str(refused[1])
    assert runs == [4]
    assert len(arrays["boxes"]) == 3
    assert model.execute(requests[1:2])[0].error is not None
    wait_for(lambda: (72, 64) in engine.sizes, slack(20), "the size")
    engine._forget_oldest()
    model.execute(requests[:1])
    assert (backend.gauges["1920x1080"], backend.gauges["64x48"]) == (0, 5 << 20)
    engine.close()


def test_a_model_that_fuse_did_not_make_runs_with_dynamic_shapes(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **options: Any) -> None:
        raise ModelError("it was not made by `tridetr models fuse`")

    monkeypatch.setattr(backend, "StaticEngine", refuse)
    monkeypatch.setattr(backend.onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(backend.onnxruntime, "preload_dlls", lambda: None, raising=False)
    model = started(backend, provider="cuda")
    assert model._engine.nodes == {CUDA: 1}
    assert "dynamic shapes" in backend.warnings[0]
