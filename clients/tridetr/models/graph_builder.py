"""Build an ONNX graph node by node, around another graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


class GraphBuilder:
    """Collects nodes and constants, whose generated names all start with ``prefix``.

    >>> graph = GraphBuilder("demo/")
    >>> graph.add("Add", ["x", graph.const([1, 2])])
    'demo/Add_0'
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        return self.add_named(op, inputs, self._new_name(op), **attributes)

    def add_named(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node whose single output has the given name; return that name."""
        name = self._new_name(op)
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def add_pair(self, op: str, inputs: Sequence[str], **attributes: Any) -> tuple[str, str]:
        """Add a node with two outputs and return their names."""
        name = self._new_name(op)
        outputs = f"{name}_0", f"{name}_1"
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))
        return outputs

    def const(self, value: NDArray[np.generic] | np.generic | Sequence[int]) -> str:
        """Add a constant, unless an equal one exists, and return its name; sequences of int become int64."""
        array = np.asarray(value, np.int64 if isinstance(value, (list, tuple)) else None)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"{self._prefix}const_{len(self._constants)}"
            self.initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def append_core(self, graph: onnx.GraphProto) -> None:
        """Append another graph's nodes and weights unchanged."""
        self.nodes.extend(graph.node)
        self.initializers.extend(graph.initializer)

    def _new_name(self, op: str) -> str:
        return f"{self._prefix}{op}_{len(self.nodes)}"


def rename_values(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename values of a graph in place, including subgraphs (If, Loop)."""
    for node in graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                if value in names:
                    values[index] = names[value]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                rename_values(attribute.g, names)
    for holder in (graph.input, graph.output, graph.value_info, graph.initializer):
        for item in holder:
            if item.name in names:
                item.name = names[item.name]


def inputs_of(node: onnx.NodeProto) -> set[str]:
    """Return the values that a node reads, including those of its subgraphs (If, Loop)."""
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            found.update(*map(inputs_of, attribute.g.node))
    return found


def drop_unused_weights(graph: onnx.GraphProto) -> None:
    """Remove the weights that no node reads, in place."""
    used = {value for node in graph.node for value in inputs_of(node)}
    kept = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def resolve_shared_weights(model: onnx.ModelProto) -> None:
    """Remove Identity and Cast nodes between weights and the nodes that use them, in place.

    Such Casts occur in models that store their weights in another precision than they compute in.
    """
    weights = {w.name: w for w in model.graph.initializer}
    alias: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        source = alias.get(node.input[0], node.input[0]) if node.input else ""
        if node.op_type == "Identity" and source in weights:
            alias[node.output[0]] = source
        elif node.op_type == "Cast" and source in weights:
            kind = next(entry.i for entry in node.attribute if entry.name == "to")
            cast = numpy_helper.to_array(weights[source]).astype(
                helper.tensor_dtype_to_np_dtype(kind)
            )
            weights[node.output[0]] = numpy_helper.from_array(cast, node.output[0])
        else:
            kept.append(node)
    for node in kept:
        for index, value in enumerate(node.input):
            if value in alias:
                node.input[index] = alias[value]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(weights.values())
    drop_unused_weights(model.graph)


def precision_of(model: onnx.ModelProto) -> str:
    """Return the precision of a graph: ``int8`` if it has Q/DQ nodes, else ``fp16`` or ``fp32`` by its weights."""
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return "int8"
    sizes: dict[int, int] = {TensorProto.FLOAT16: 0, TensorProto.FLOAT: 0}
    for weight in model.graph.initializer:
        if weight.data_type in sizes:
            sizes[weight.data_type] += int(np.prod(weight.dims))
    return "fp16" if sizes[TensorProto.FLOAT16] > sizes[TensorProto.FLOAT] else "fp32"


def has_tensorrt_activations(model: onnx.ModelProto) -> bool:
    """Return whether a graph quantises all activations as TensorRT needs it: signed, with a zero point of 0."""
    weights = {weight.name: weight for weight in model.graph.initializer} | {
        node.output[0]: attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    points = [
        weights.get(node.input[2]) if len(node.input) > 2 else None
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in weights
    ]
    return bool(points) and all(point is not None and _is_int8_zero(point) for point in points)


def _is_int8_zero(weight: TensorProto) -> bool:
    is_here = weight.data_location != TensorProto.EXTERNAL
    return (
        is_here and weight.data_type == TensorProto.INT8 and not numpy_helper.to_array(weight).any()
    )
