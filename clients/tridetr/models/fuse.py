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
to exist in every engine, backend and client for an effect that is small (docs/models.md has what a
wrong guess costs). Limited-range BT.601 is the default; a node whose cameras all deliver something
else (JPEG cameras are full range) names it with ``color``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tridetr.errors import ModelError
from tridetr.models.card import ModelCard, set_metadata
from tridetr.models.color import IMAGENET_MEAN, IMAGENET_STD, FrameColor, YuvToRgb
from tridetr.models.graph_builder import GraphBuilder, precision_of, rename_values
from tridetr.models.raw_export import RawExport

DROPPED = -1
"""Class id of a logit column that is never reported (a background class, say)."""

# Far below any logit: its sigmoid is exactly 0, in float16 too.
_NO_LOGIT = -1e4
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
    names = {name: f"rfdetr/{name}" for name in _CONTRACT_NAMES}
    rename_values(core.graph, names)

    graph = GraphBuilder("tridetr")
    whwh = _preprocess(graph, export, color, names.get(export.input_name, export.input_name))
    graph.append_core(core.graph)
    _postprocess(
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


def _preprocess(graph: GraphBuilder, export: RawExport, color: FrameColor, image: str) -> str:
    """Add the nodes from ``frame`` to ``image``; return the name of float [4]: W, H, W, H."""
    add, const = graph.add, graph.const
    pixels = add("Cast", ["frame"], to=TensorProto.FLOAT)
    shape = add("Shape", [pixels])
    rows = add("Gather", [shape, const([1])])
    width = add("Gather", [shape, const([2])])
    height = add("Div", [add("Mul", [rows, const([2])]), const([3])])
    dynamic = export.batch is None
    batch = add("Gather", [shape, const([0])]) if dynamic else const([export.batch or 1])
    luma = add("Unsqueeze", [add("Slice", [pixels, const([0]), height, const([1])]), const([1])])
    # Cb and Cr are H/2 x W/2 each and lie one after the other, so together they are H/2 rows of W
    # bytes; Cr starts in the middle of a row where H/2 is odd. A reshape does not care.
    two = const([2])
    half_height, half_width = add("Div", [height, two]), add("Div", [width, two])
    planes = add("Concat", [batch, two, half_height, half_width], axis=0)
    chroma = add("Reshape", [add("Slice", [pixels, height, rows, const([1])]), planes])

    square = [export.resolution, export.resolution]

    def resize(plane: str, channels: int) -> str:
        if dynamic:
            sizes = add("Concat", [batch, const([channels, *square])], axis=0)
        else:
            sizes = const([export.batch or 1, channels, *square])
        return add(
            "Resize",
            [plane, "", "", sizes],
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )

    yuv = add("Concat", [resize(luma, 1), resize(chroma, 2)], axis=1)
    matrix = YuvToRgb.of(color).normalised()
    rgb = add(
        "Conv",
        [
            yuv,
            const(matrix.weight.reshape(3, 3, 1, 1).astype(np.float32)),
            const(matrix.bias.astype(np.float32)),
        ],
        kernel_shape=[1, 1],
    )
    black = (0.0 - IMAGENET_MEAN) / IMAGENET_STD
    white = (1.0 - IMAGENET_MEAN) / IMAGENET_STD
    rgb = add("Max", [rgb, const(black.reshape(1, 3, 1, 1).astype(np.float32))])
    rgb = add("Min", [rgb, const(white.reshape(1, 3, 1, 1).astype(np.float32))])
    graph.add_named("Cast", [rgb], image, to=export.input_type)
    whwh = add("Concat", [width, height, width, height], axis=0)
    return add("Cast", [whwh], to=TensorProto.FLOAT)


def _postprocess(
    graph: GraphBuilder,
    export: RawExport,
    boxes: str,
    logits: str,
    ids: list[int],
    topk: int,
    whwh: str,
) -> None:
    """Add the nodes from the export's outputs to ``boxes``, ``scores`` and ``classes``."""
    add, const = graph.add, graph.const
    cxcywh = add("Cast", [boxes], to=TensorProto.FLOAT)
    logits = add("Cast", [logits], to=TensorProto.FLOAT)
    kept = [column for column, number in enumerate(ids) if number != DROPPED]
    if len(kept) < len(ids):
        logits = add("Gather", [logits, const(kept)], axis=2)
    columns = len(kept)
    if (lacking := -(-topk // columns) - export.queries) > 0:
        # Fewer pairs than K: further queries that nobody detects, so that TopK always finds K.
        pads = const([0, 0, 0, 0, lacking, 0])
        logits = add("Pad", [logits, pads, const(np.float32(_NO_LOGIT))])
        cxcywh = add("Pad", [cxcywh, pads, const(np.float32(0.0))])
    # The order of the logits is the order of the scores: only K sigmoids instead of Q * C.
    flat = add("Reshape", [logits, const([0, -1])])
    best, pair = graph.add_pair("TopK", [flat, const([topk])], axis=1, largest=1, sorted=1)
    graph.add_named("Sigmoid", [best], "scores")

    per_query = const([columns])
    query = add("Div", [pair, per_query])
    column = add("Sub", [pair, add("Mul", [query, per_query])])
    column_ids = const(np.array([ids[i] for i in kept], np.int32))
    graph.add_named("Gather", [column_ids, column], "classes", axis=0)

    index = add("Tile", [add("Unsqueeze", [query, const([2])]), const([1, 1, 4])])
    cxcywh = add("GatherElements", [cxcywh, index], axis=1)
    center = add("Slice", [cxcywh, const([0]), const([2]), const([2])])
    size = add("Slice", [cxcywh, const([2]), const([4]), const([2])])
    half = add("Mul", [size, const(np.float32(0.5))])
    xyxy = add("Concat", [add("Sub", [center, half]), add("Add", [center, half])], axis=2)
    inside = add("Clip", [xyxy, const(np.float32(0.0)), const(np.float32(1.0))])
    graph.add_named("Mul", [inside, whwh], "boxes")


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
    yielding = [
        node.name or node.op_type
        for node in fused.graph.node
        if node.op_type in ("Cast", "Constant") and _element_type(node) == TensorProto.UINT8
    ]
    if yielding:
        raise ModelError(f"nodes {yielding} of the export yield uint8, which TensorRT refuses")


def _element_type(node: onnx.NodeProto) -> int:
    for attribute in node.attribute:
        if attribute.name == "to":
            return int(attribute.i)
        if attribute.name == "value":
            return int(numpy_helper.to_array(attribute.t).dtype == np.uint8) * TensorProto.UINT8
    return TensorProto.UNDEFINED
