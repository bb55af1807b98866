"""A small, smooth network with the interface of an RF-DETR export, to test the graph that `models fuse` adds."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GRID = 4
QUERIES = GRID * GRID


def tiny_export(
    *,
    side: int = 32,
    columns: int = 91,
    batch: int | None = None,
    kind: int = TensorProto.FLOAT,
    names: tuple[str, str, str] = ("input", "dets", "labels"),
    symbolic_outputs: bool = False,
    seed: int = 0,
) -> onnx.ModelProto:
    """Return a network in which each of 4 x 4 cells is a query; box and logits are linear in its mean colour."""
    rng = np.random.default_rng(seed)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    image, boxes, logits = names

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(0, 1, shape).astype(dtype), name)

    nodes = [
        helper.make_node(
            "AveragePool",
            [image],
            ["cells"],
            kernel_shape=[side // GRID] * 2,
            strides=[side // GRID] * 2,
        ),
        helper.make_node("Reshape", ["cells", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["tokens", "to_box"], ["box"]),
        helper.make_node("Sigmoid", ["box"], [boxes]),
        helper.make_node("MatMul", ["tokens", "to_logit"], [logits]),
    ]
    first = "batch" if batch is None else batch
    outputs = {boxes: [first, QUERIES, 4], logits: [first, QUERIES, columns]}
    if symbolic_outputs:
        outputs = {boxes: [first, "queries", "four"], logits: [first, "queries", columns]}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(image, kind, [first, 3, side, side])],
        [helper.make_tensor_value_info(name, kind, dims) for name, dims in outputs.items()],
        [
            weight("to_box", 3, 4),
            weight("to_logit", 3, columns),
            numpy_helper.from_array(np.array([0, 3, QUERIES], np.int64), "shape"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
