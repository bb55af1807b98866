"""Models rewritten for the CUDA provider: joined kernels, same interfaces, same detections."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from tridetr.errors import ModelError
from tridetr.model_card import Form, ModelCard
from tridetr.models import cuda_form
from tridetr.models.onnx_file import metadata_of
from tridetr.models.unwrap import network_of
from tridetr.paths import model_repository_dir
from tridetr.triton.engine.choice import CPU, Choice
from tridetr.triton.engine.dlpack import Frames
from tridetr.triton.engine.session import Engine
from tridetr.triton.engine.static import StaticEngine

MODEL = model_repository_dir() / "rfdetr_ort" / "1" / "model.onnx"


@pytest.fixture(scope="module")
def rewritten() -> cuda_form.Rewritten:
    return cuda_form.for_cuda(onnx.load(MODEL))


def test_fewer_kernels_and_the_same_card(rewritten: cuda_form.Rewritten) -> None:
    before, after = onnx.load(MODEL), rewritten.model
    assert rewritten.kernels
    assert len(after.graph.node) < len(before.graph.node)
    old, new = (ModelCard.from_metadata(metadata_of(model)) for model in (before, after))
    assert new.form is Form.CUDA
    assert new.classes == old.classes
    assert new.precision == ("fp16" if rewritten.half else old.precision)


def test_the_engine_splits_and_runs_it(rewritten: cuda_form.Rewritten, tmp_path: Path) -> None:
    file = tmp_path / "cuda.onnx"
    onnx.save(rewritten.model, file)
    frame = np.random.default_rng(0).integers(0, 256, (1, 360, 320), np.uint8)
    engine = StaticEngine(file, Choice(CPU, "fp32", "a test"))
    ((_, scores, _),) = engine.run([Frames(int(frame.ctypes.data), frame.shape, None)])
    _, expected, _ = Engine(MODEL, Choice(CPU, "fp32", "a test")).run(frame)
    np.testing.assert_allclose(scores, expected, atol=0.02)
    engine.close()


def test_fp16_computes_in_fp16_between_the_networks_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The bundled model is too small for FP16 to be accepted; only the conversion itself is tested here."""
    monkeypatch.setattr(cuda_form, "_SCORE", 0.1)
    monkeypatch.setattr(cuda_form, "_BOX_PX", 20.0)
    monkeypatch.setattr(cuda_form, "_PICTURES", 1)
    found = cuda_form.for_cuda(onnx.load(MODEL))
    assert (found.half, found.refused) == (True, ())
    assert ModelCard.from_metadata(metadata_of(found.model)).precision == "fp16"
    casts = {node.output[0]: node for node in found.model.graph.node if node.op_type == "Cast"}
    products = [node for node in found.model.graph.node if node.op_type == "MatMul"]
    kinds = {casts[node.input[1]].attribute[0].i for node in products if node.input[1] in casts}
    assert kinds == {onnx.TensorProto.FLOAT16}  # the weights, which the file stores as FP16
    sampled = [node for node in found.model.graph.node if node.op_type == "GridSample"]
    assert sampled  # stay in FP32: the CUDA provider would leave FP16 to the CPU
    for node in sampled:
        assert {casts[value].attribute[0].i for value in node.input} == {onnx.TensorProto.FLOAT}
    file = tmp_path / "cuda.onnx"
    onnx.save(found.model, file)
    engine = StaticEngine(file, Choice(CPU, "fp32", "a test"), most=2)
    frame = np.random.default_rng(0).integers(0, 256, (2, 360, 320), np.uint8)
    frames = Frames(int(frame.ctypes.data), frame.shape, None).singles()
    (_, scores, _), _ = engine.run(frames)
    _, expected, _ = Engine(MODEL, Choice(CPU, "fp32", "a test")).run(frame[:1])
    np.testing.assert_allclose(scores, expected, atol=0.1)
    engine.close()


def test_fp16_that_changes_scores_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    def ruined(joined: onnx.ModelProto) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(joined)
        for weight in model.graph.initializer:
            if len(weight.dims) > 1 and weight.raw_data:
                weight.raw_data = bytes(len(weight.raw_data))
        return model

    monkeypatch.setattr(cuda_form, "halve", ruined)
    found = cuda_form.for_cuda(onnx.load(MODEL))
    assert not found.half
    assert "FP16" in found.refused[0]


def test_kernels_are_joined_without_sympy(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's wheels for a GPU do not require it."""
    monkeypatch.setitem(sys.modules, "sympy", None)
    joined = cuda_form.join(network_of(onnx.load(MODEL)))
    kernels = Counter(node.op_type for node in joined.graph.node)
    assert min(kernels[kind] for kind in ("LayerNormalization", "SkipLayerNormalization")) > 10


def test_a_rewritten_model_is_refused(rewritten: cuda_form.Rewritten) -> None:
    with pytest.raises(ModelError, match="portable models"):
        cuda_form.for_cuda(rewritten.model)
