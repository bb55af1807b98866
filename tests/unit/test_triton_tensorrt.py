"""The engine of the Python-based `tensorrt` backend, with fakes of TensorRT and CUDA: copies and errors."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tridetr.triton
from support.fake_cuda import FakeCuda, fill
from support.fake_tensorrt import DETECTIONS, Engine, fake_tensorrt
from tridetr.errors import CudaError, ModelError
from tridetr.models.engine_files import EngineFacts, Profile, write_facts
from tridetr.triton.engine import dlpack
from tridetr.triton.engine.dlpack import Frames, frames_of
from tridetr.triton.engine.tensorrt_engine import TensorRtEngine


@pytest.fixture
def cuda(tmp_path: Path) -> FakeCuda:
    folder = tmp_path / "gpu"
    folder.mkdir()
    return FakeCuda(folder)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "model.plan"
    path.write_bytes(b"an engine")
    return path


@pytest.fixture
def played(cuda: FakeCuda) -> Engine:
    return Engine(cuda.queue)


@pytest.fixture
def engine(cuda: FakeCuda, plan: Path, played: Engine) -> Iterator[TensorRtEngine]:
    engine = TensorRtEngine(plan, fake_tensorrt(played), cuda)
    yield engine
    engine.close()
    assert cuda.is_clean()


def on_host(value: int, batch: int = 1, rows: int = 720, width: int = 640) -> tuple[Any, Frames]:
    array = np.full((batch, rows, width), value, np.uint8)
    return array, frames_of(array)


def test_a_frame_in_gpu_memory_is_used_in_place(cuda: FakeCuda, engine: TensorRtEngine) -> None:
    size = 720 * 640
    pointer = cuda.allocate(size)
    fill(pointer, size, 77)
    boxes, scores, classes = engine.run(Frames(pointer, (1, 720, 640), gpu=0))
    assert boxes.shape == (1, DETECTIONS, 4)
    assert (boxes[0, 0, 0], scores[0, 0], classes[0, 0]) == (77, 77, 77)
    assert cuda.copies == ["down"] * 3  # only the results, never the frame
    cuda.free(pointer)


def test_a_frame_in_host_memory_is_uploaded_once(cuda: FakeCuda, engine: TensorRtEngine) -> None:
    for value in (1, 2):
        array, frames = on_host(value)
        assert engine.run(frames)[0][0, 0, 0] == value
        del array
    assert cuda.copies == ["up", "down", "down", "down"] * 2
    assert len(cuda.allocations) == 4  # one for each tensor, reused


def test_results_do_not_share_memory_with_later_ones(engine: TensorRtEngine) -> None:
    kept, first = on_host(1)
    results = engine.run(first)
    other, second = on_host(2)
    engine.run(second)
    assert results[0][0, 0, 0] == 1
    del kept, other


def test_the_profile_is_chosen_by_batch_and_size(played: Engine, engine: TensorRtEngine) -> None:
    for rows, width, batch, profile in ((720, 640, 3, 0), (1620, 1920, 2, 1), (72, 64, 1, 0)):
        array, frames = on_host(5, batch, rows, width)
        assert engine.run(frames)[1].shape == (batch, DETECTIONS)
        assert played.contexts[0].profile == profile
        del array


@pytest.mark.parametrize("shape", [(1, 3240, 3840), (5, 720, 640), (3, 1620, 1920)])
def test_the_error_for_an_unsupported_size_lists_the_profiles(
    engine: TensorRtEngine, shape: tuple[int, int, int]
) -> None:
    with pytest.raises(ModelError, match=r"\[1, 72, 64\] to \[4, 720, 640\] or .*build-engine"):
        engine.run(Frames(1, shape, None))


def test_a_failed_run_and_a_full_gpu_fail_the_request(
    cuda: FakeCuda, played: Engine, engine: TensorRtEngine
) -> None:
    array, frames = on_host(1)
    cuda.fails["allocate"] = CudaError("out of memory")
    with pytest.raises(CudaError, match="out of memory"):
        engine.run(frames)
    cuda.fails.clear()
    played.fails = True
    with pytest.raises(ModelError, match="did not run"):
        engine.run(frames)
    played.fails = False
    assert engine.run(frames)[0][0, 0, 0] == 1
    with pytest.raises(ModelError, match="GPU 1, the engine on GPU 0"):
        engine.run(Frames(1, (1, 720, 640), gpu=1))
    del array


def test_an_engine_of_another_gpu_is_refused(cuda: FakeCuda, plan: Path) -> None:
    with pytest.raises(ModelError, match=r"fake GPU cannot load .*build-engine"):
        TensorRtEngine(plan, fake_tensorrt(None), cuda)


@pytest.mark.parametrize(
    ("types", "said"),
    [
        ({"input": np.uint8, "boxes": np.float32}, "are input, boxes instead of frame"),
        ({**Engine.types, "frame": np.float32}, "frame is float32 instead of uint8"),
        ({**Engine.types, "classes": np.int64}, "classes is int64 instead of int32"),
    ],
)
def test_an_engine_of_another_contract_is_refused(
    cuda: FakeCuda, plan: Path, played: Engine, types: dict[str, Any], said: str
) -> None:
    played.types = types  # type: ignore[misc]
    with pytest.raises(ModelError, match=said):
        TensorRtEngine(plan, fake_tensorrt(played), cuda)


def test_dlpack_gives_the_address_of_the_bytes() -> None:
    array = np.zeros((2, 6, 4), np.uint8)
    frames = frames_of(array[1:])
    assert frames == Frames(array.ctypes.data + 24, (1, 6, 4), None)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((1, 6, 4), np.float32), "another type"),
        (np.zeros((1, 6, 4), np.int8), "another type"),
        (np.zeros((1, 6, 8), np.uint8)[:, :, ::2], "expected a contiguous frame"),
    ],
)
def test_other_tensors_are_refused(array: np.ndarray, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        frames_of(array)


@pytest.mark.parametrize(("device", "gpu"), [((2, 3), 3), ((13, 0), 0), ((10, 0), None)])
def test_a_tensor_on_a_gpu_keeps_its_address_and_number(
    device: tuple[int, int], gpu: int | None
) -> None:
    """Without a GPU: uses the capsule of a host tensor with its device changed."""
    array = np.zeros((1, 6, 4), np.uint8)

    def export() -> object:
        capsule = array.__dlpack__()
        tensor = dlpack._Tensor.from_address(dlpack._get_pointer(capsule, b"dltensor"))
        tensor.device_type, tensor.device_id = device
        return capsule

    assert ctypes.sizeof(dlpack._Tensor) == 48  # as in dlpack.h on 64-bit machines
    tensor = SimpleNamespace(__dlpack__=export)
    if gpu is None:
        with pytest.raises(ModelError, match=r"unsupported device \(DLPack's type 10\)"):
            frames_of(tensor)
    else:
        assert frames_of(tensor) == Frames(array.ctypes.data, (1, 6, 4), gpu)


MODEL = Path(tridetr.triton.__file__).parent / "backends" / "tensorrt" / "model.py"


@pytest.fixture
def backend(cuda: FakeCuda, played: Engine, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The backend's module, with fakes of Triton's stub, TensorRT and CUDA."""
    utils: Any = ModuleType("triton_python_backend_utils")
    utils.Logger = SimpleNamespace(log_info=lambda text: None)
    utils.TritonError = lambda message: message
    utils.InferenceResponse = lambda output_tensors, error=None: (output_tensors, error)
    utils.Tensor = SimpleNamespace(from_dlpack=lambda name, capsule: name)
    utils.get_input_tensor_by_name = lambda request, name: request
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    driver: Any = ModuleType("tridetr.cuda.driver")
    driver.DriverCuda = lambda number: cuda
    monkeypatch.setitem(sys.modules, "tridetr.cuda.driver", driver)
    monkeypatch.setattr(FakeCuda, "close", lambda self: None, raising=False)
    spec = importlib.util.spec_from_file_location("tensorrt_backend_under_test", MODEL)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "import_tensorrt", lambda: fake_tensorrt(played))
    return module


def arguments(folder: Path, kind: str = "GPU", **parameters: str) -> dict[str, str]:
    config = {"parameters": {key: {"string_value": value} for key, value in parameters.items()}}
    return {
        "model_config": json.dumps(config),
        "model_instance_device_id": "0",
        "model_instance_kind": kind,
        "model_name": "rfdetr_trt",
        "model_repository": str(folder),
        "model_version": "1",
    }


def test_the_backend_serves_and_reports_the_engine(
    backend: ModuleType, plan: Path, tmp_path: Path, cuda: FakeCuda
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.plan").symlink_to(plan)
    profile = Profile((1, 72, 64), (1, 720, 640), (4, 720, 640))
    write_facts(plan, EngineFacts("fake GPU", "11.4.0", "fp16", profile))
    model = backend.TritonPythonModel()
    model.initialize(arguments(tmp_path, engine_report=str(tmp_path / "engine.json")))
    good, odd = np.ones((1, 720, 640), np.uint8), np.ones((1, 721, 640), np.uint8)
    answers = model.execute([good, odd, good])
    assert [error for _, error in answers] == [None, answers[1][1], None]
    assert "even height and width" in answers[1][1]
    assert answers[0][0] == ["boxes", "scores", "classes"]
    model.finalize()
    assert cuda.is_clean()
    said = json.loads((tmp_path / "engine.json").read_text())
    assert (said["engine"], said["precision"]) == ("tensorrt", "fp16")
    assert said["reason"] == "an engine for fake GPU"
