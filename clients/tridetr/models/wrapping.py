"""Build the pre- and post-processing nodes of a fused graph."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tridetr.model_card import FrameColor
from tridetr.models.color_matrix import IMAGENET_MEAN, IMAGENET_STD, YuvToRgb
from tridetr.models.graph_builder import GraphBuilder
from tridetr.models.raw_export import DROPPED, RawExport

OUR_PREFIX = "tridetr/"
"""Prefix of the names of all nodes, values and constants of the pre- and post-processing."""

CORE_PREFIX = "rfdetr/"
"""Prefix for values of the export whose names the contract uses."""

# Far below any logit: its sigmoid is exactly 0, in float16 too.
_NO_LOGIT = -1e4


def preprocess(graph: GraphBuilder, export: RawExport, color: FrameColor, image: str) -> str:
    """Add the nodes from ``frame`` to the network's input.

    Args:
        graph: receives the nodes.
        export: the network's interface.
        color: colour matrix and range of the frame.
        image: name of the network's input.

    Returns:
        The name of a float [4] value: W, H, W, H of the frame.
    """
    add, const = graph.add, graph.const
    pixels = add("Cast", ["frame"], to=TensorProto.FLOAT)
    shape = add("Shape", [pixels])
    rows = add("Gather", [shape, const([1])])
    width = add("Gather", [shape, const([2])])
    height = add("Div", [add("Mul", [rows, const([2])]), const([3])])
    dynamic = export.batch is None
    batch = add("Gather", [shape, const([0])]) if dynamic else const([export.batch or 1])
    luma = add("Unsqueeze", [add("Slice", [pixels, const([0]), height, const([1])]), const([1])])
    # Cb and Cr have H/2 x W/2 bytes each, one after the other: together H/2 rows of W bytes. If H/2 is odd, Cr starts
    # in the middle of a row, which makes no difference to a reshape.
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


def postprocess(
    graph: GraphBuilder,
    export: RawExport,
    boxes: str,
    logits: str,
    ids: list[int],
    topk: int,
    whwh: str,
) -> None:
    """Add the nodes from the export's outputs to ``boxes``, ``scores`` and ``classes``.

    Args:
        graph: receives the nodes.
        export: the network's interface.
        boxes: name of the network's boxes.
        logits: name of the network's logits.
        ids: class id of each logit column.
        topk: number of detections.
        whwh: name of the value that ``preprocess`` returned.
    """
    add, const = graph.add, graph.const
    cxcywh = add("Cast", [boxes], to=TensorProto.FLOAT)
    logits = add("Cast", [logits], to=TensorProto.FLOAT)
    kept = [column for column, number in enumerate(ids) if number != DROPPED]
    if len(kept) < len(ids):
        logits = add("Gather", [logits, const(kept)], axis=2)
    columns = len(kept)
    # If there are fewer (query, class) pairs than K, or an unknown number, pad with queries that detect nothing, so
    # that TopK always finds K.
    if (lacking := -(-topk // columns) - (export.queries or 0)) > 0:
        pads = const([0, 0, 0, 0, lacking, 0])
        logits = add("Pad", [logits, pads, const(np.float32(_NO_LOGIT))])
        cxcywh = add("Pad", [cxcywh, pads, const(np.float32(0.0))])
    # Logits and scores have the same order, so only K sigmoids are needed instead of Q * C.
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
