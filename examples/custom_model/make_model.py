"""Write a model of the contract that reports how bright a picture is."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tridetr.model_card import FrameColor, ModelCard
from tridetr.models.onnx_file import set_metadata


def make_model() -> onnx.ModelProto:
    """Return the graph: frame [B, 3H/2, W] to boxes [B, 1, 4], scores [B, 1], classes [B, 1]."""
    node = helper.make_node
    constants = {
        "one": [1], "two": [2], "three": [3], "zero": [0], "batch_one": [-1, 1],
        "box_shape": [1, 1, 4], "ones": [1, 1], "origin": [0, 0], "plane": [1, 2],
    }  # fmt: skip
    initializers = [
        numpy_helper.from_array(np.array(values, np.int64), name)
        for name, values in constants.items()
    ]
    initializers += [
        numpy_helper.from_array(np.array(255, np.float32), "white"),
        numpy_helper.from_array(np.array([[1]], np.int32), "class_id"),
    ]
    nodes = [
        node("Shape", ["frame"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Gather", ["shape", "one"], ["rows"]),
        node("Gather", ["shape", "two"], ["width"]),
        node("Mul", ["rows", "two"], ["double_rows"]),
        node("Div", ["double_rows", "three"], ["height"]),
        # The score: mean of the luma plane, which is the first H rows
        node("Slice", ["frame", "zero", "height", "one"], ["luma"]),
        node("Cast", ["luma"], ["bytes"], to=TensorProto.FLOAT),
        node("ReduceMean", ["bytes", "plane"], ["mean"], keepdims=0),
        node("Div", ["mean", "white"], ["brightness"]),
        node("Reshape", ["brightness", "batch_one"], ["scores"]),
        # The box: the whole picture, in source pixels
        node("Concat", ["origin", "width", "height"], ["corners"], axis=0),
        node("Cast", ["corners"], ["pixels"], to=TensorProto.FLOAT),
        node("Reshape", ["pixels", "box_shape"], ["box"]),
        node("Concat", ["batch", "ones"], ["boxes_shape"], axis=0),
        node("Expand", ["box", "boxes_shape"], ["boxes"]),
        node("Concat", ["batch", "one"], ["classes_shape"], axis=0),
        node("Expand", ["class_id", "classes_shape"], ["classes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, ["B", "rows", "W"])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["B", 1, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", 1]),
            helper.make_tensor_value_info("classes", TensorProto.INT32, ["B", 1]),
        ],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    card = ModelCard(
        classes={"bright": 1},
        source="examples/custom_model",
        color=FrameColor.BT601_FULL,
        default_score=0.3,
        precision="fp32",
    )
    set_metadata(model, card.to_metadata())
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    onnx.save(make_model(), parser.parse_args().output)
