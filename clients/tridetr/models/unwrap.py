"""Take a fused model apart: the network inside, the values at its interface, and its class table."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import onnx
from onnx import helper, numpy_helper

from tridetr.errors import ModelError
from tridetr.models.graph_builder import drop_unused_weights, rename_values
from tridetr.models.onnx_file import metadata_of
from tridetr.models.raw_export import DROPPED
from tridetr.models.wrapping import CORE_PREFIX, OUR_PREFIX


def seam_values(fused: onnx.ModelProto) -> tuple[str, str, str]:
    """Return the names of the network's input, boxes and logits inside a fused model.

    Raises:
        ModelError: the model was not made by ``fuse``.
    """
    inner, outer = _sides(fused)
    made_inside = {value for node in inner for value in node.output}
    used_inside = {value for node in inner for value in node.input}
    inputs = {v for node in outer for v in node.output if v in used_inside}
    # The post-processing uses boxes before logits.
    outputs = [v for node in outer for v in node.input if v in made_inside]
    if len(inputs) != 1 or len(outputs) != 2:
        raise ModelError(
            "cannot find the network inside this model: `tridetr models fuse` did not make it"
        )
    return inputs.pop(), outputs[0], outputs[1]


def with_outputs(fused: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """Return a copy of a model with the given inner values as additional outputs."""
    model = copy.deepcopy(fused)
    known = _known_values(fused, values)
    model.graph.output.extend(known[value] for value in values)
    return model


def network_of(fused: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network inside a fused model, without pre- and post-processing.

    Raises:
        ModelError: the model was not made by ``fuse``.
    """
    image, *outputs = seam_values(fused)
    inner, _ = _sides(fused)
    model = copy.deepcopy(fused)
    del model.graph.node[:]
    model.graph.node.extend(inner)
    drop_unused_weights(model.graph)
    known = _known_values(fused, (image, *outputs))
    side = int(metadata_of(fused)["tridetr.resolution"])
    batch = fused.graph.input[0].type.tensor_type.shape.dim[0]
    first = batch.dim_value if batch.HasField("dim_value") else "batch"
    kind = known[image].type.tensor_type.elem_type
    names = {value: value.removeprefix(CORE_PREFIX) for value in (image, *outputs)}
    del model.graph.input[:], model.graph.output[:], model.graph.value_info[:]
    model.graph.input.append(helper.make_tensor_value_info(image, kind, [first, 3, side, side]))
    model.graph.output.extend(known[value] for value in outputs)
    rename_values(model.graph, names)
    return model


def with_network(fused: onnx.ModelProto, network: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a fused model with its network replaced.

    Args:
        fused: a model of ``fuse``; it is not changed.
        network: the new network, with the same interface as ``network_of(fused)``.

    Raises:
        ModelError: the model was not made by ``fuse``.
    """
    image, boxes, logits = seam_values(fused)
    inner, model = copy.deepcopy(network), copy.deepcopy(fused)
    _, outer = _sides(fused)
    ours = {value for node in outer for value in (*node.input, *node.output)} - {""}
    names = {value: CORE_PREFIX + value for value in _values(inner.graph) & ours}
    names[inner.graph.input[0].name] = image
    names |= {out.name: seam for out, seam in zip(inner.graph.output, (boxes, logits), strict=True)}
    rename_values(inner.graph, names)
    needed = {image}
    before: list[onnx.NodeProto] = []
    for node in reversed(outer):
        if needed & set(node.output):
            needed |= set(node.input)
            before.insert(0, node)
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(before)
    model.graph.node.extend(inner.graph.node)
    model.graph.node.extend(node for node in outer if node not in before)
    model.graph.initializer.extend(w for w in fused.graph.initializer if w.name in ours)
    model.graph.initializer.extend(inner.graph.initializer)
    domains = {entry.domain for entry in model.opset_import}
    model.opset_import.extend(e for e in inner.opset_import if e.domain not in domains)
    return model


def _sides(fused: onnx.ModelProto) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Return the nodes of the network, and those of the pre- and post-processing."""
    nodes = fused.graph.node
    inner = [node for node in nodes if not node.name.startswith(OUR_PREFIX)]
    return inner, [node for node in nodes if node.name.startswith(OUR_PREFIX)]


def _values(graph: onnx.GraphProto) -> set[str]:
    made = {value for node in graph.node for value in node.output}
    return made | {weight.name for weight in graph.initializer}


def column_ids(fused: onnx.ModelProto, columns: int) -> list[int]:
    """Return the class id of each logit column, from the constants of a fused graph.

    Args:
        fused: a model of ``fuse``.
        columns: number of logit columns of the network inside.

    Raises:
        ModelError: the model was not made by ``fuse``.
    """
    weights = {w.name: w for w in fused.graph.initializer}
    kept: list[int] | None = None
    for node in fused.graph.node:
        if not node.name.startswith(OUR_PREFIX) or node.op_type != "Gather":
            continue
        if node.output[0] == "classes":
            ids = numpy_helper.to_array(weights[node.input[0]]).tolist()
            if kept is None:
                return [int(i) for i in ids]
            full = [DROPPED] * columns
            for column, number in zip(kept, ids, strict=True):
                full[column] = int(number)
            return full
        if any(a.name == "axis" and a.i == 2 for a in node.attribute):
            kept = numpy_helper.to_array(weights[node.input[1]]).tolist()
    raise ModelError("the model has no class table: it was not made by `tridetr models fuse`")


def _known_values(fused: onnx.ModelProto, values: Sequence[str]) -> dict[str, onnx.ValueInfoProto]:
    shapes = onnx.shape_inference.infer_shapes(fused)
    known = {value.name: value for value in shapes.graph.value_info}
    if missing := [value for value in values if value not in known]:
        raise ModelError(f"cannot infer the shapes of {missing} inside the model")
    return known
