"""Wrap an RF-DETR export as a contract model: I420 frame in, boxes, scores and classes out.

Pre- and post-processing become part of the graph, so that ONNX Runtime, OpenVINO and TensorRT run the same arithmetic::

    frame uint8 [B, 3H/2, W]
      -> Cast to float                 first, because TensorRT allows uint8 only for inputs
      -> planes Y [B,1,H,W], CbCr [B,2,H/2,W/2]
      -> Resize to R x R               bilinear, half-pixel, no antialias, stretched
      -> 1x1 Conv, Max, Min            colour matrix, range, /255, clipping, ImageNet normalisation
      -> RF-DETR                       the export, unchanged
      -> TopK over (query, class) -> Sigmoid, boxes to source pixels, class ids

**The colour conversion is fixed per model**, not chosen per frame. The contract has one input, and the engine reads the
frame from shared memory; a second input would have to be supported by every engine, backend and client. The cost of a
mismatch was measured (person_oracle, coco128, AP 0.320): a wrong matrix costs nothing (+0.3 points, noise), a wrong
range costs 1.3 to 2.0 points. If all cameras of a node are full range (JPEG, most USB cameras), use a model of that
range, which ``recolor`` makes from another one in a second. The default is limited-range BT.601.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tridetr.errors import ModelError
from tridetr.model_card import FrameColor, ModelCard
from tridetr.models.color_matrix import YuvToRgb
from tridetr.models.graph_builder import GraphBuilder, precision_of, rename_values
from tridetr.models.onnx_file import card_of, set_metadata
from tridetr.models.raw_export import RawExport
from tridetr.models.wrapping import CORE_PREFIX, OUR_PREFIX, postprocess, preprocess

_CONTRACT_NAMES = ("frame", "boxes", "scores", "classes")


def fuse(
    model: onnx.ModelProto,
    *,
    classes: Mapping[str, int],
    class_ids: Sequence[int] | None = None,
    topk: int = 300,
    default_score: float = 0.5,
    source: str,
    color: FrameColor = FrameColor.BT601_LIMITED,
    checksum: str | None = None,
) -> onnx.ModelProto:
    """Wrap an RF-DETR export as a contract model.

    Args:
        model: the export: normalised RGB float [B, 3, R, R] to boxes (cxcywh in 0..1) and logits.
            A dynamic batch stays dynamic, a fixed one stays fixed; the data types of the weights are kept.
        classes: class name -> id, as in the output ``classes``.
        class_ids: the id of each logit column (``DROPPED`` = never reported); None: the column's
            index is the id.
        topk: K, the number of detections per frame. If the model has fewer (query, class) pairs,
            the remaining rows have score 0.
        default_score: minimum score of a detection unless the configuration sets another.
        source: human-readable origin of the export.
        color: colour matrix and range of the I420 frames.
        checksum: SHA-256 of the export's file; None: of the model as it is serialised here.

    Returns:
        A new model: ``frame`` uint8 [B, 3H/2, W] to ``boxes`` float32 [B, K, 4] (xyxy in source
        pixels, within the frame), ``scores`` float32 [B, K] (best first), ``classes`` int32 [B, K].

    Raises:
        ModelError: the model is not an RF-DETR export, or the classes do not match it.
    """
    export = RawExport.of(model)
    ids = _column_ids(export, classes, class_ids)
    if checksum is None:
        checksum = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    card = ModelCard(
        classes=classes,
        resolution=export.resolution,
        source=source,
        checksum=checksum,
        color=color,
        default_score=default_score,
        precision=precision_of(model),
    )

    core = copy.deepcopy(model)
    names = {name: CORE_PREFIX + name for name in _CONTRACT_NAMES}
    rename_values(core.graph, names)

    graph = GraphBuilder(OUR_PREFIX)
    whwh = preprocess(graph, export, color, names.get(export.input_name, export.input_name))
    graph.append_core(core.graph)
    postprocess(
        graph,
        export,
        names.get(export.boxes_name, export.boxes_name),
        names.get(export.logits_name, export.logits_name),
        ids,
        topk,
        whwh,
    )
    fused = _assemble(graph, core, export.batch, topk)
    set_metadata(fused, card.to_metadata())
    _check(fused)
    return fused


def recolor(fused: onnx.ModelProto, color: FrameColor) -> onnx.ModelProto:
    """Return a copy of a fused model for frames of another colour matrix or range.

    Raises:
        ModelError: the model was not made by ``fuse``.
    """
    card = card_of(fused)
    if not card.contract:
        raise ModelError(
            "only models of `tridetr models fuse` can be converted to another colour matrix or range"
        )
    old, new = YuvToRgb.of(card.color).normalised(), YuvToRgb.of(color).normalised()
    model = copy.deepcopy(fused)
    changed = 0
    for weight in model.graph.initializer:
        for before, after in ((old.weight.reshape(3, 3, 1, 1), new.weight), (old.bias, new.bias)):
            if not weight.name.startswith(OUR_PREFIX) or weight.data_type != TensorProto.FLOAT:
                continue
            if list(weight.dims) == list(before.shape):
                shaped = after.reshape(before.shape).astype(np.float32)
                weight.CopyFrom(numpy_helper.from_array(shaped, weight.name))
                changed += 1
    if changed != 2:
        raise ModelError(
            "cannot find the colour conversion in this model. Remedy: fuse the export again"
        )
    set_metadata(model, replace(card, color=color).to_metadata())
    return model


def _column_ids(
    export: RawExport, classes: Mapping[str, int], class_ids: Sequence[int] | None
) -> list[int]:
    ids = list(range(export.columns)) if class_ids is None else [int(i) for i in class_ids]
    if len(ids) != export.columns:
        raise ModelError(f"got {len(ids)} class ids, but the logits have {export.columns} columns")
    if not classes:
        raise ModelError("a model needs at least one class name")
    if unknown := {name: i for name, i in classes.items() if i not in ids or i < 0}:
        raise ModelError(
            f"no logit column has the ids of {unknown}; the export's {export.columns} columns "
            f"have the ids {min(ids)}..{max(ids)}"
        )
    if len(set(classes.values())) != len(classes):
        raise ModelError("two class names have the same id")
    return ids


def _assemble(
    graph: GraphBuilder, core: onnx.ModelProto, batch: int | None, topk: int
) -> onnx.ModelProto:
    first: int | str = "batch" if batch is None else batch

    def value(name: str, kind: int, dims: list[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [first, *dims])

    fused = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "tridetr",
            [value("frame", TensorProto.UINT8, ["rows", "width"])],
            [
                value("boxes", TensorProto.FLOAT, [topk, 4]),
                value("scores", TensorProto.FLOAT, [topk]),
                value("classes", TensorProto.INT32, [topk]),
            ],
            initializer=graph.initializers,
        ),
        opset_imports=core.opset_import,
        ir_version=core.ir_version,
        functions=core.functions,
        producer_name="tridetr",
    )
    for entry in core.metadata_props:
        fused.metadata_props.add(key=entry.key, value=entry.value)
    return fused


def _check(fused: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(fused)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"the fused graph is not valid ONNX: {error}") from error
    inferred = onnx.shape_inference.infer_shapes(fused)
    uint8 = [
        value.name
        for value in inferred.graph.value_info
        if value.type.tensor_type.elem_type == TensorProto.UINT8
    ]
    if uint8:
        raise ModelError(
            f"the export contains uint8 values {uint8}, which TensorRT does not support"
        )
