"""Average precision, thresholds, and weights stored as float16."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import TensorProto, helper, numpy_helper

from tridetr_demo.training.publish import store_as_halves
from tridetr_demo.training.score import Matcher, iou_matrix

BOX = [0.0, 0.0, 10.0, 10.0]
OTHER = [20.0, 20.0, 30.0, 30.0]


def _array(*boxes: list[float]) -> np.ndarray:
    return np.array(boxes, np.float32).reshape(-1, 4)


@pytest.mark.parametrize(
    ("found", "scores", "truth", "expected"),
    [
        ([BOX, OTHER], [0.9, 0.8], [BOX, OTHER], 1.0),
        ([BOX], [0.9], [BOX, OTHER], 0.5),
        ([BOX, BOX], [0.9, 0.8], [BOX], 1.0),  # the duplicate comes after all was found
        ([OTHER, BOX], [0.9, 0.8], [BOX], 0.5),  # a mistake that scores higher halves the precision
        ([], [], [BOX], 0.0),
    ],
)
def test_average_precision(
    found: list[Any], scores: list[float], truth: list[Any], expected: float
) -> None:
    matcher = Matcher()
    matcher.add(_array(*found), np.array(scores, np.float32), _array(*truth))
    assert matcher.curve().average_precision() == pytest.approx(expected)


def test_precision_and_recall_at_a_threshold() -> None:
    matcher = Matcher()
    matcher.add(_array(BOX, BOX), np.array([0.9, 0.4], np.float32), _array(BOX, OTHER))
    curve = matcher.curve()
    assert curve.at(0.5) == (1.0, 0.5)
    assert curve.at(0.3) == (0.5, 0.5)
    assert 0.4 < curve.best_threshold() <= 0.9


def test_intersection_over_union_of_shifted_and_distant_boxes() -> None:
    shifted = [5.0, 0.0, 15.0, 10.0]
    np.testing.assert_allclose(
        iou_matrix(_array(BOX), _array(BOX, shifted, OTHER)), [[1, 1 / 3, 0]], rtol=1e-5
    )


def test_weights_stored_as_float16_give_the_same_results_in_less_space() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 64)).astype(np.float16).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    small = store_as_halves(model)
    assert small.ByteSize() < 0.6 * model.ByteSize()
    x = rng.normal(size=(1, 64)).astype(np.float32)
    (before,), (after,) = (
        onnx.reference.ReferenceEvaluator(each).run(None, {"x": x}) for each in (model, small)
    )
    np.testing.assert_array_equal(before, after)
