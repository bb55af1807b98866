"""Stores a graph's weights as float16, to halve the file; it goes on computing in float32."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALLEST = 256
LARGEST_HALF = 65504.0


def store_as_halves(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turns each float32 weight of some size into a float16 one and a Cast, which engines fold when they load.

    Args:
        model: Any model; it is left as it is.

    Returns:
        A copy with the same inputs, outputs, opset and metadata.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    casts: list[onnx.NodeProto] = []
    for weight in small.graph.initializer:
        if weight.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(weight)
        if values.size < SMALLEST or np.abs(values).max() > LARGEST_HALF:
            continue
        name, stored = weight.name, weight.name + "/half"
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(
            helper.make_node("Cast", [stored], [name], name=name + "/cast", to=TensorProto.FLOAT)
        )
    nodes = list(small.graph.node)
    del small.graph.node[:]
    # The first node of a contract model casts the frame, and stays the first.
    weights = {cast.output[0] for cast in casts}
    first = 0 if weights & set(nodes[0].input) else 1
    small.graph.node.extend([*nodes[:first], *casts, *nodes[first:]])
    onnx.checker.check_model(small)
    return small
