"""Fused graphs compared with a reference that shares no code with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from support.tiny_export import QUERIES, tiny_export
from tridetr.contract import COCO_91
from tridetr.errors import ModelError
from tridetr.model_card import FrameColor, ModelCard
from tridetr.models import reference
from tridetr.models.choices import Engine
from tridetr.models.fuse import fuse, recolor
from tridetr.models.onnx_file import metadata_of
from tridetr.models.raw_export import DROPPED
from tridetr.models.runtime import open_session
from tridetr.models.verify import compare_detections

SIDE = 32
EXPORT = tiny_export(side=SIDE)
RAW = open_session(EXPORT)


def fused_session(engine: Engine = Engine.CPU, **settings: object) -> onnxruntime.InferenceSession:
    arguments: dict[str, Any] = {"classes": COCO_91, "source": "test"} | settings
    return open_session(fuse(EXPORT, **arguments), engine)


SESSIONS = {color: fused_session(color=color) for color in FrameColor}


def expected(
    frame: np.ndarray, color: FrameColor, ids: list[int] | None = None
) -> reference.Detections:
    image = reference.preprocess_i420(frame, SIDE, color.matrix, color.is_full_range)
    boxes, logits = RAW.run(["dets", "labels"], {"input": image[None].astype(np.float32)})
    return reference.postprocess(
        boxes[0],
        logits[0],
        resolution_wh=(frame.shape[1], frame.shape[0] * 2 // 3),
        class_ids=ids or list(range(91)),
        best=600,
    )


def found(session: onnxruntime.InferenceSession, frame: np.ndarray) -> reference.Detections:
    boxes, scores, classes = session.run(["boxes", "scores", "classes"], {"frame": frame[None]})
    assert boxes.dtype == scores.dtype == np.float32
    assert classes.dtype == np.int32
    assert (np.diff(scores[0]) <= 0).all(), "best first"
    return reference.Detections(boxes[0].astype(float), scores[0].astype(float), classes[0])


def assert_same(
    session: onnxruntime.InferenceSession, frame: np.ndarray, color: FrameColor
) -> None:
    box_px, score, compared = compare_detections(
        found(session, frame), expected(frame, color), least_score=0.0
    )
    assert compared == 300
    assert box_px < 1e-3 * max(frame.shape)
    assert score < 1e-4


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height * 3 // 2, width), np.uint8)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 120).map(lambda n: 2 * n),
    st.integers(1, 120).map(lambda n: 2 * n),
    st.sampled_from(list(FrameColor)),
)
def test_any_even_size_and_colour_matches_the_reference(
    width: int, height: int, color: FrameColor
) -> None:
    """Includes heights not divisible by 4, where the Cr plane starts in the middle of a row."""
    assert_same(SESSIONS[color], noise(width, height, seed=width * 1000 + height), color)


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("color", list(FrameColor))
def test_extreme_frames_are_clipped_like_the_reference(value: int, color: FrameColor) -> None:
    frame = np.full((48 * 3 // 2, 64), value, np.uint8)
    assert_same(SESSIONS[color], frame, color)
    # extreme Y, neutral chroma: pure black and white
    frame[48:] = 128
    assert_same(SESSIONS[color], frame, color)


def test_limited_range_differs_from_full_range() -> None:
    frame = noise(64, 48)
    limited = found(SESSIONS[FrameColor.BT601_LIMITED], frame)
    full = found(SESSIONS[FrameColor.BT601_FULL], frame)
    assert np.abs(limited.scores - full.scores).max() > 1e-3


def test_a_batch_gives_the_same_results_as_single_frames() -> None:
    session = SESSIONS[FrameColor.BT601_LIMITED]
    frames = np.stack([noise(70, 50, seed) for seed in range(4)])
    for size in range(1, 5):
        together = session.run(None, {"frame": frames[:size]})
        for index in range(size):
            alone = session.run(None, {"frame": frames[index : index + 1]})
            for many, one in zip(together, alone, strict=True):
                np.testing.assert_allclose(many[index], one[0], atol=1e-4)


@pytest.mark.parametrize(
    "shape", [(72, 63), (71, 64), (73, 64), (70, 64)], ids=["odd width", "71", "73", "70 rows"]
)
def test_frames_that_are_not_i420_are_refused(shape: tuple[int, int]) -> None:
    session = SESSIONS[FrameColor.BT601_LIMITED]
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException):
        session.run(None, {"frame": np.zeros((1, *shape), np.uint8)})


@pytest.mark.parametrize("size", [(64, 48), (66, 50), (640, 360)])
def test_openvino_agrees(size: tuple[int, int]) -> None:
    if "OpenVINOExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no OpenVINO provider")
    assert_same(fused_session(Engine.OPENVINO), noise(*size), FrameColor.BT601_LIMITED)


def test_only_the_input_is_uint8_and_the_first_node_casts_it() -> None:
    model = fuse(EXPORT, classes=COCO_91, source="test")
    assert model.graph.node[0].op_type == "Cast"
    assert list(model.graph.node[0].input) == ["frame"]
    assert [n.op_type for n in model.graph.node if "frame" in n.input] == ["Cast"]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    kinds = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    assert len(kinds) > 30, "shape inference must know the values for this test to mean anything"
    assert [name for name, kind in kinds.items() if kind == TensorProto.UINT8] == []


def test_all_operators_are_supported_by_every_engine() -> None:
    """TensorRT does not support antialiased Resize, and some of its versions no Mod on int64."""
    model = fuse(EXPORT, classes=COCO_91, source="test")
    for node in model.graph.node:
        assert node.domain in ("", "ai.onnx")
        assert node.op_type not in ("Mod", "NonMaxSuppression", "NonZero", "Loop", "If")
        if node.op_type == "Resize":
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            assert not attributes.get("antialias", 0)
            assert attributes["coordinate_transformation_mode"] == b"half_pixel"


def test_class_ids_of_columns() -> None:
    """A fine-tuned model: columns 0..2 have the ids 10, 11, 12, column 3 is the background."""
    export = tiny_export(columns=4)
    ids = [10, 11, 12, DROPPED]
    model = fuse(export, classes={"a": 10, "b": 11, "c": 12}, class_ids=ids, topk=20, source="test")
    _, scores, classes = open_session(model).run(None, {"frame": noise(64, 48)[None]})
    assert set(classes[0].tolist()) <= {10, 11, 12}
    assert scores.shape == (1, 20)


def test_fewer_pairs_than_k_are_padded_with_score_zero() -> None:
    model = fuse(tiny_export(columns=3), classes={"a": 0}, topk=300, source="test")
    boxes, scores, classes = open_session(model).run(None, {"frame": noise(64, 48)[None]})
    assert boxes.shape == (1, 300, 4)
    assert classes.shape == (1, 300)
    real = QUERIES * 3
    assert (scores[0, :real] > 0).all()
    assert (scores[0, real:] == 0).all()


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 1},
        {"symbolic_outputs": True},
        {"names": ("pixel_values", "pred_boxes", "logits")},
        {"names": ("input", "boxes", "labels")},
        {"kind": TensorProto.FLOAT16},
    ],
    ids=lambda options: next(iter(options)),
)
def test_other_exports_are_fused_too(options: dict[str, Any]) -> None:
    model = fuse(tiny_export(**options), classes=COCO_91, source="test")
    frame = noise(64, 48)
    other = found(open_session(model), frame)
    plain = found(SESSIONS[FrameColor.BT601_LIMITED], frame)
    half = options.get("kind") == TensorProto.FLOAT16
    np.testing.assert_allclose(other.scores, plain.scores, atol=5e-3 if half else 1e-6)
    assert metadata_of(model)["tridetr.precision"] == ("fp16" if half else "fp32")
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert first.dim_value == options.get("batch", 0)


def test_weights_in_half_precision_are_kept() -> None:
    model = fuse(tiny_export(kind=TensorProto.FLOAT16), classes=COCO_91, source="test")
    kinds = {w.name: w.data_type for w in model.graph.initializer}
    assert kinds["to_box"] == kinds["to_logit"] == TensorProto.FLOAT16


def test_the_metadata_contains_the_card() -> None:
    model = fuse(EXPORT, classes={"person": 1}, default_score=0.37, source="somewhere")
    card = ModelCard.from_metadata(metadata_of(model))
    assert card is not None
    assert (card.classes, card.default_score, card.source) == ({"person": 1}, 0.37, "somewhere")
    assert (card.resolution, card.color) == (SIDE, FrameColor.BT601_LIMITED)
    assert len(card.checksum) == 64


def test_recolor_equals_fusing_for_that_colour() -> None:
    frame = noise(66, 50)
    again = recolor(fuse(EXPORT, classes=COCO_91, source="test"), FrameColor.BT709_FULL)
    assert_same(open_session(again), frame, FrameColor.BT709_FULL)
    assert metadata_of(again)["tridetr.color"] == "bt709-full"


def without_output(name: str) -> onnx.ModelProto:
    model = tiny_export()
    kept = [value for value in model.graph.output if value.name != name]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return model


def with_dims(name: str, dims: list[int]) -> onnx.ModelProto:
    model = tiny_export()
    for value in [*model.graph.input, *model.graph.output]:
        if value.name == name:
            value.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (tiny_export(names=("image", "dets", "labels")), "'image' float"),
        (without_output("labels"), "logits are missing"),
        (without_output("dets"), "boxes are missing"),
        (with_dims("labels", [1, 91]), "logits have rank 2 instead of 3"),
        (with_dims("input", [3, 32, 32]), "rank 3 instead of 4"),
        (with_dims("input", [1, 1, 32, 32]), "1 channels instead of 3"),
        (with_dims("input", [1, 3, 32, 64]), "32x64"),
        (tiny_export(batch=4), "fixed batch size of 4, but frames arrive one by one. Remedy"),
        (with_dims("dets", [1, 16, 5]), "5 numbers instead of 4"),
        (with_dims("dets", [1, 15, 4]), "15 boxes but 16"),
        (fuse(EXPORT, classes=COCO_91, source="test"), "fused already"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_graphs_are_refused_with_expected_and_found(
    model: onnx.ModelProto, message: str
) -> None:
    with pytest.raises(ModelError) as caught:
        fuse(model, classes=COCO_91, source="test")
    assert message in str(caught.value)
    assert "found" in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "ids", "message"),
    [
        ({"person": 200}, None, "no logit column has the ids"),
        ({"person": 1}, [1, 2], "got 2 class ids"),
        ({"person": 1, "car": 1}, None, "have the same id"),
        ({}, None, "at least one class"),
    ],
)
def test_classes_that_do_not_match_the_export_are_refused(
    classes: dict[str, int], ids: list[int] | None, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        fuse(EXPORT, classes=classes, class_ids=ids, source="test")


def test_a_saved_model_gives_the_same_results(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(fuse(EXPORT, classes=COCO_91, source="test"), path)
    assert_same(open_session(path), noise(64, 48), FrameColor.BT601_LIMITED)
