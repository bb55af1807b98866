from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from support.tiny_export import tiny_export
from tridetr.errors import ModelError
from tridetr.models.fuse import fuse
from tridetr.triton.describe import read_report, write_report
from tridetr.triton.engine.choice import CPU, CUDA, OPENVINO, TENSORRT, Choice
from tridetr.triton.engine.dlpack import Frames, frames_of
from tridetr.triton.engine.session import Engine, count_providers, provider_options

PROVIDERS = [
    pytest.param(name, marks=pytest.mark.skipif(
        name not in onnxruntime.get_available_providers(), reason=f"no {name} installed"
    ))
    for name in (CPU, OPENVINO)
]  # fmt: skip


@pytest.fixture(scope="module")
def fused() -> onnx.ModelProto:
    names = {f"class{number}": number for number in range(91)}
    return fuse(tiny_export(), classes=names, source="tiny", topk=20)


def frames(count: int, width: int = 64, height: int = 48) -> np.ndarray:
    rng = np.random.default_rng(width)
    return rng.integers(0, 256, (count, height * 3 // 2, width), dtype=np.uint8)


def outputs_of(model: onnx.ModelProto, frame: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[CPU])
    outputs: list[np.ndarray] = session.run(["boxes", "scores", "classes"], {"frame": frame})
    return outputs


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_engine_gives_the_results_of_the_graph(
    tmp_path: Path, fused: onnx.ModelProto, provider: str
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(fused, path)
    engine = Engine(path, Choice(provider, "fp32", "test"), threads=1, cache_dir=tmp_path / "cache")
    assert engine.nodes.get(provider)

    for width, height in ((64, 48), (320, 240)):  # sizes may change from frame to frame
        batch = frames(2, width, height)
        boxes, scores, classes = engine.run(batch)
        assert (boxes.shape, scores.shape, classes.shape) == ((2, 20, 4), (2, 20), (2, 20))
        wanted = outputs_of(fused, batch)
        np.testing.assert_allclose(boxes, wanted[0], atol=0.01)
        np.testing.assert_allclose(scores, wanted[1], atol=1e-4)
        np.testing.assert_array_equal(classes, wanted[2])


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (np.zeros((1, 71, 64), np.uint8), "71 rows"),
        (np.zeros((1, 72, 63), np.uint8), "63 bytes"),
        (np.zeros((1, 72, 64), np.float32), "float32"),
        (np.zeros((72, 64), np.uint8), r"\[72, 64\]"),
        (np.zeros((0, 72, 64), np.uint8), r"\[0, 72, 64\]"),
    ],
)
def test_invalid_frames_are_refused(
    tmp_path: Path, fused: onnx.ModelProto, frame: np.ndarray, said: str
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(fused, path)
    engine = Engine(path, Choice(CPU, "fp32", "test"), threads=1, cache_dir=tmp_path)
    with pytest.raises(ModelError, match=said):
        engine.run(frame)


def test_nodes_are_counted_once_for_any_number_of_runs() -> None:
    def event(index: int, provider: str) -> str:
        args = f'{{"node_index": "{index}", "provider": "{provider}"}}'
        return f'{{"cat": "Node", "name": "n{index}_kernel_time", "args": {args}}}'

    profile = ", ".join([event(0, "A"), event(0, "A"), event(1, "A"), event(2, "B")])
    session = '{"cat": "Session", "name": "load", "args": {}}'
    assert count_providers(f"[{session}, {profile}]") == {"A": 2, "B": 1}


def test_a_written_report_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    assert read_report(None) == read_report(str(path)) == {}
    write_report(path, {"engine": "onnxruntime", "provider": "P"})
    assert read_report(str(path)) == {"engine": "onnxruntime", "provider": "P"}
    path.write_text("{")
    assert read_report(str(path)) == {}


def test_frames_in_place_give_the_same_results(fused: onnx.ModelProto, tmp_path: Path) -> None:
    """On a GPU the binding refers to device memory; the code is the same for host memory."""
    onnx.save(fused, tmp_path / "m.onnx")
    engine = Engine(tmp_path / "m.onnx", Choice(CPU, "fp32", ""))
    frame = frames(1, 320, 240)
    for copied, bound in zip(engine.run(frame), engine.run_bound(frames_of(frame)), strict=True):
        np.testing.assert_array_equal(copied, bound)
    with pytest.raises(ModelError, match="even height and width"):
        engine.run_bound(Frames(frame.ctypes.data, (1, 359, 320), None))


def test_tensorrt_caches_engines_and_gets_the_sizes(tmp_path: Path) -> None:
    shapes = {"trt_profile_max_shapes": "frame:8x1620x1920"}
    assert provider_options(Choice(TENSORRT, "fp32", ""), 0, tmp_path, shapes) == {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(tmp_path),
        **shapes,
    }
    assert provider_options(Choice(CUDA, "fp32", ""), 0, tmp_path, shapes) == {
        "cudnn_conv_algo_search": "HEURISTIC"
    }
