"""Wrap an RF-DETR export into the model contract: I420 frame in, boxes, scores and classes out.

The whole of pre- and post-processing becomes part of the graph, so that ONNX Runtime, OpenVINO and
TensorRT run the very same arithmetic::

    frame uint8 [B, 3H/2, W]
      -> Cast to float                 first: TensorRT refuses every other uint8 tensor
      -> planes Y [B,1,H,W], CbCr [B,2,H/2,W/2]
      -> Resize to R x R               bilinear, half-pixel, no antialias, stretched
      -> 1x1 Conv, Max, Min            colour matrix, range, /255, clipping, ImageNet normalisation
      -> RF-DETR                       the export, untouched
      -> TopK over (query, class) -> Sigmoid, boxes to source pixels, class ids

**Colour is baked per model**, not read from the frame. The contract has one input, and a frame's
bytes are given to the engine where they lie in shared memory; a second input per request would have
to exist in every engine, backend and client. What a wrong guess costs was measured (person_oracle,
coco128, AP 0.320): the other matrix nothing (+0.3 points, noise), the other range 1.3 to 2.0 points.
So a node whose cameras are all full range (JPEG, most USB cameras) uses a model of that range, which
``recolor`` makes from another one in a second; the default is limited-range BT.601.
"""

from __future__ import annotations

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
from tridetr.models.onnx_file import metadata_of, set_metadata
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
    """Wrap an RF-DETR export to the model contract.

    Args:
        model: the export: normalised RGB float [B, 3, R, R] to boxes (cxcywh in 0..1) and logits.
            A dynamic batch stays dynamic, a fixed one stays fixed; the weights' types are kept.
        classes: class name -> id, as the output ``classes`` reports it.
        class_ids: the id of each logit column (``DROPPED`` = never reported); None: the column's
            index is the id.
        topk: K, the number of detections per frame. Where the model has fewer (query, class) pairs,
            the rest has score 0.
        default_score: least score that counts as a detection unless the user says otherwise.
        source: where the export came from, for people.
        color: the meaning of the I420 bytes.
        checksum: SHA-256 of the export's file; None: of the model as it is serialised here.

    Returns:
        A new model: ``frame`` uint8 [B, 3H/2, W] to ``boxes`` float32 [B, K, 4] (xyxy in source
        pixels, within the frame), ``scores`` float32 [B, K] (best first), ``classes`` int32 [B, K].

    Raises:
        ModelError: the model is no RF-DETR export, or the classes do not fit it.
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

    core = onnx.ModelProto()
    core.CopyFrom(model)
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
    """Return a copy of a fused model for frames of another matrix or range.

    Raises:
        ModelError: the model was not made by ``fuse``.
    """
    card = ModelCard.from_metadata(metadata_of(fused))
    if not card.contract:
        raise ModelError("only models that `tridetr models fuse` made can be given other colours")
    old, new = YuvToRgb.of(card.color).normalised(), YuvToRgb.of(color).normalised()
    model = onnx.ModelProto()
    model.CopyFrom(fused)
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
        raise ModelError("the colour conversion was not found in this model: fuse the export again")
    set_metadata(model, replace(card, color=color).to_metadata())
    return model


def _column_ids(
    export: RawExport, classes: Mapping[str, int], class_ids: Sequence[int] | None
) -> list[int]:
    ids = list(range(export.columns)) if class_ids is None else [int(i) for i in class_ids]
    if len(ids) != export.columns:
        raise ModelError(
            f"{len(ids)} class ids were given, but the logits have {export.columns} columns"
        )
    if not classes:
        raise ModelError("a model needs at least one class name")
    if unknown := {name: i for name, i in classes.items() if i not in ids or i < 0}:
        raise ModelError(
            f"no logit column yields the ids of {unknown}; the export's {export.columns} columns "
            f"yield {min(ids)}..{max(ids)}"
        )
    if len(set(classes.values())) != len(classes):
        raise ModelError("two class names share one id")
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
        raise ModelError(f"values {uint8} of the export are uint8, which TensorRT refuses")
