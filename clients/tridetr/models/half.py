"""Mixed precision for strongly typed TensorRT: products in FP16, everything else in FP32.

Since TensorRT 11, the data types of the graph alone determine the precision. Casting all of RF-DETR to FP16 ruins its
accuracy (LayerNorm and Softmax overflow or lose precision). Casting only the products (MatMul, Gemm, Conv), which take
most of the time, preserves it. Tensor cores accumulate their sums in FP32 anyway.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tridetr.errors import ModelError
from tridetr.models.choices import EnginePrecision
from tridetr.models.graph_builder import drop_unused_weights, precision_of, resolve_shared_weights
from tridetr.models.onnx_file import metadata_of, set_metadata
from tridetr.models.quantize import PRODUCTS
from tridetr.models.wrapping import OUR_PREFIX

_LARGEST = float(np.finfo(np.float16).max)


def engine_precision(source: onnx.ModelProto, wanted: EnginePrecision) -> EnginePrecision:
    """Return the precision to build an engine with: ``wanted`` for a float32 model, otherwise KEEP.

    In a float16 or quantised model, the data types already determine the precision of each product.
    """
    return wanted if precision_of(source) == "fp32" else EnginePrecision.KEEP


def halve_products(source: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a float32 contract model whose products run in float16.

    Constant inputs become float16 weights, other inputs are cast; outputs are cast back to float32.
    Pre- and post-processing (pixels, coordinates) stay in float32.

    Raises:
        ModelError: the model is not float32, or a weight does not fit into float16.
    """
    if (precision := precision_of(source)) != "fp32":
        raise ModelError(
            f"the model is {precision} already. Remedy: build the engine with --precision keep"
        )
    model = copy.deepcopy(source)
    resolve_shared_weights(model)
    weights = {w.name: w for w in model.graph.initializer}
    halves: dict[str, str] = {}
    casts: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type not in PRODUCTS or node.name.startswith(OUR_PREFIX):
            nodes.append(node)
            continue
        for index, value in enumerate(node.input):
            if value in weights:
                node.input[index] = halves.setdefault(value, f"{value}/fp16")
            elif value:
                if value not in casts:
                    casts[value] = f"{value}/fp16"
                    nodes.append(_cast(value, casts[value], TensorProto.FLOAT16))
                node.input[index] = casts[value]
        result = node.output[0]
        node.output[0] = f"{result}/in_fp16"
        nodes.extend([node, _cast(node.output[0], result, TensorProto.FLOAT)])
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(_half(weights[name], half) for name, half in halves.items())
    drop_unused_weights(model.graph)
    if "tridetr.precision" in metadata_of(model):
        set_metadata(model, {"tridetr.precision": "fp16"})
    onnx.checker.check_model(model)
    return model


def _cast(value: str, result: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [value], [result], name=f"{result}/cast", to=kind)


def _half(weight: onnx.TensorProto, name: str) -> onnx.TensorProto:
    array = numpy_helper.to_array(weight)
    if float(np.abs(array).max(initial=0.0)) > _LARGEST:
        raise ModelError(
            f"the weight {weight.name} exceeds the range of float16. Remedy: build the engine with "
            "--precision keep"
        )
    return numpy_helper.from_array(array.astype(np.float16), name)
