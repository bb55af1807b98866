"""The pre-processing for OpenVINO compared with the numpy reference and the portable graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from support.tiny_export import tiny_export
from tridetr.contract import COCO_91
from tridetr.model_card import FrameColor
from tridetr.models import reference
from tridetr.models.choices import Engine
from tridetr.models.fuse import fuse
from tridetr.models.gathering import gather_pixels
from tridetr.models.runtime import open_session
from tridetr.models.unwrap import seam_values, with_outputs
from tridetr.models.verify import compare_detections
from tridetr_demo.training.publish import store_as_halves

SIDE = 32
OUTPUTS = ["boxes", "scores", "classes"]
HAS_OPENVINO = "OpenVINOExecutionProvider" in onnxruntime.get_available_providers()


def fused(color: FrameColor = FrameColor.BT601_LIMITED, **export: Any) -> onnx.ModelProto:
    return fuse(tiny_export(side=SIDE, **export), classes=COCO_91, source="test", color=color)


def gathered(model: onnx.ModelProto) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    assert gather_pixels(changed)
    onnx.checker.check_model(changed, full_check=True)
    return changed


def image_session(
    color: FrameColor, engine: Engine = Engine.CPU
) -> tuple[onnxruntime.InferenceSession, str]:
    """Return a session that also outputs the network's input, and the name of that output."""
    model = gathered(fused(color))
    image = seam_values(model)[0]
    return open_session(with_outputs(model, [image]), engine), image


ENGINES = [
    Engine.CPU,
    *(
        pytest.param(
            engine, marks=pytest.mark.skipif(not HAS_OPENVINO, reason="no OpenVINO provider")
        )
        for engine in (Engine.OPENVINO, Engine.OPENVINO_BF16)
    ),
]
SESSIONS = {color: image_session(color) for color in FrameColor}


def noise(width: int, height: int) -> np.ndarray:
    rng = np.random.default_rng(width * 1000 + height)
    return rng.integers(0, 256, (1, height * 3 // 2, width), np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 120).map(lambda n: 2 * n),
    st.integers(1, 120).map(lambda n: 2 * n),
    st.sampled_from(list(FrameColor)),
)
def test_any_even_size_and_colour_matches_the_reference(
    width: int, height: int, color: FrameColor
) -> None:
    """Larger and smaller than the network's input, and with Cr starting in the middle of a row."""
    session, image = SESSIONS[color]
    frame = noise(width, height)
    wanted = reference.preprocess_i420(frame[0], SIDE, color.matrix, color.is_full_range)
    (found,) = session.run([image], {"frame": frame})
    np.testing.assert_allclose(found[0], wanted, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [(1920, 1080), (640, 480), (66, 50), (2, 2)])
def test_every_precision_uses_the_same_pixels(engine: Engine, size: tuple[int, int]) -> None:
    """Indices in bf16 would be off by many pixels, pixels in bf16 by a half."""
    color = FrameColor.BT601_FULL
    session, image = image_session(color, engine)
    frame = noise(*size)
    wanted = reference.preprocess_i420(frame[0], SIDE, color.matrix, color.is_full_range)
    (found,) = session.run([image], {"frame": frame})
    np.testing.assert_allclose(found[0], wanted, atol=0.03 if "bf16" in engine.value else 2e-3)


@pytest.mark.parametrize(
    "export", [{}, {"batch": 1}, {"kind": TensorProto.FLOAT16}], ids=["", "fixed", "half"]
)
def test_whole_models_give_the_same_results(export: dict[str, Any]) -> None:
    model = fused(**export)
    changed = gathered(model)
    assert {n.op_type for n in changed.graph.node if "frame" in n.input} == {
        "Shape", "Gather", "Reshape",
    }  # fmt: skip
    frame = noise(200, 150)
    before = open_session(model).run(OUTPUTS, {"frame": frame})
    after = open_session(changed).run(OUTPUTS, {"frame": frame})
    half = export.get("kind") == TensorProto.FLOAT16
    np.testing.assert_allclose(after[1], before[1], atol=2e-3 if half else 1e-5)
    if not half:
        box_px, _, compared = compare_detections(
            detections(after), detections(before), least_score=0.0
        )
        assert compared == 300
        assert box_px < 0.01


def detections(outputs: list[np.ndarray]) -> reference.Detections:
    boxes, scores, classes = (values[0] for values in outputs)
    return reference.Detections(boxes.astype(float), scores.astype(float), classes)


def test_a_batch_gives_the_same_results_as_single_frames() -> None:
    session = open_session(gathered(fused()))
    frames = np.concatenate([noise(70, 50), noise(70, 50)[:, ::-1]])
    together = session.run(OUTPUTS, {"frame": frames})
    for index in range(2):
        alone = session.run(OUTPUTS, {"frame": frames[index : index + 1]})
        for many, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(many[index], one[0], atol=1e-4)


def test_the_bundled_form_with_stored_halves() -> None:
    model = store_as_halves(fused())
    frame = noise(64, 48)
    before = open_session(model).run(OUTPUTS, {"frame": frame})
    after = open_session(gathered(model)).run(OUTPUTS, {"frame": frame})
    np.testing.assert_allclose(after[1], before[1], atol=1e-5)


def test_models_that_fuse_did_not_make_are_not_changed() -> None:
    without_card = fused()
    del without_card.metadata_props[:]
    foreign = helper.make_model(
        helper.make_graph(
            [helper.make_node("Cast", ["frame"], ["boxes"], to=TensorProto.FLOAT)],
            "g",
            [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, "rows", "width"])],
            [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, None)],
        )
    )
    foreign.metadata_props.extend(fused().metadata_props)
    for model in (without_card, foreign):
        before = model.SerializeToString()
        assert not gather_pixels(model)
        assert model.SerializeToString() == before
