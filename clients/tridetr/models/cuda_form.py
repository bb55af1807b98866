"""Rewrites a fused model for ONNX Runtime's CUDA provider: fewer and larger kernels, and real FP16 where that holds.

ONNX Runtime's transformer optimizer joins attention, layer norms and GELU of the ViT backbone into one kernel each.
FP16 pays only with them: without, each product is cast back and forth. Pre- and post-processing stay in FP32. What
changes the detections is not kept.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tridetr.errors import ModelError
from tridetr.model_card import Form, ModelCard
from tridetr.models.onnx_file import metadata_of, set_metadata
from tridetr.models.reference import Detections
from tridetr.models.unwrap import network_of, with_network
from tridetr.models.verify import compare_detections

_JOINED = ("Attention", "MultiHeadAttention", "SkipLayerNormalization", "LayerNormalization", "Gelu",
           "FastGelu", "BiasGelu")  # fmt: skip
_DOMAIN = "com.microsoft"  # of the joined kernels
_NO_FP16 = (
    "GridSample",
)  # ONNX Runtime would run them on the CPU: its CUDA provider has them in FP32 only
_SCORE = 0.02  # most that a score may move
_BOX_PX = 2.0  # most that a box may move, at 640x480
_SURE = 0.3
_PICTURES = 4


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A model for CUDA, and what was done to it.

    Attributes:
        model: the model.
        kernels: how many nodes of each joined kind it has.
        half: whether it computes in FP16.
        refused: what was tried and not kept, and why.
    """

    model: onnx.ModelProto
    kernels: dict[str, int]
    half: bool
    refused: tuple[str, ...]


def for_cuda(fused: onnx.ModelProto) -> Rewritten:
    """Rewrite a fused model; the input stays as it is.

    Raises:
        ModelError: it is no portable model of `tridetr models fuse`, or nothing was gained.
    """
    card = ModelCard.from_metadata(metadata_of(fused))
    if not card.contract or card.form is not Form.PORTABLE:
        raise ModelError("only portable models of `tridetr models fuse` can be rewritten for cuda")
    expected = _results(fused)
    joined = join(network_of(fused))
    best, half = with_network(fused, joined), False
    refused: list[str] = []
    kernels = Counter(node.op_type for node in joined.graph.node if node.op_type in _JOINED)
    if why := _difference(expected, best):
        raise ModelError(f"the joined kernels change the detections: {why}. Use the portable model")
    if card.precision == "fp32":
        candidate = with_network(fused, halve(joined))
        why = _difference(expected, candidate)
        if why:
            refused.append(f"FP16: {why}")
        else:
            best, half = candidate, True
    made = replace(card, form=Form.CUDA, precision="fp16" if half else card.precision)
    set_metadata(best, made.to_metadata())
    return Rewritten(best, dict(kernels), half, tuple(refused))


def join(network: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network with joined kernels."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions("vit")
    options.enable_shape_inference = False  # joins the same kernels, and needs no sympy
    joined = optimizer.optimize_model(
        network, model_type="vit", opt_level=0, use_gpu=True, optimization_options=options
    ).model
    assert isinstance(joined, onnx.ModelProto)
    if not any(entry.domain == _DOMAIN for entry in joined.opset_import):
        joined.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return joined


def halve(network: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network in FP16, with the types of its ends."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    model = onnx.ModelProto()
    model.CopyFrom(network)
    # Contrib operators stop onnx's shape inference, and only values of a known type are cast.
    known = {value.name for value in model.graph.value_info}
    around = {
        value
        for node in model.graph.node
        if node.op_type in _NO_FP16
        for value in (*node.input, *node.output)
    }
    model.graph.value_info.extend(
        helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None)
        for value in sorted(around - known)
    )
    halved = convert_float_to_float16(
        model,
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_NO_FP16],
    )
    assert isinstance(halved, onnx.ModelProto)
    return halved


def _results(model: onnx.ModelProto) -> list[list[NDArray[Any]]]:
    """Return the detections of some pictures: noise of several sizes of grain, which has edges as well."""
    from tridetr.models.runtime import open_session

    session = open_session(model)
    found = []
    for seed in range(_PICTURES):
        dice = np.random.default_rng(seed)
        grain = 2 ** (seed + 2)
        small = dice.integers(0, 256, (1, 720 // grain + 1, 640 // grain + 1), np.uint8)
        frame = np.kron(small, np.ones((1, grain, grain), np.uint8))[:, :720, :640]
        found.append(session.run(None, {"frame": np.ascontiguousarray(frame)}))
    return found


def _difference(expected: list[list[NDArray[Any]]], model: onnx.ModelProto) -> str:
    """Return what a model changes; empty: nothing that counts."""
    try:
        found = _results(model)
    except Exception as error:  # ONNX Runtime raises a dozen unrelated types
        return f"ONNX Runtime does not run it ({str(error).splitlines()[0][:160]})"
    for before, after in zip(expected, found, strict=True):
        if not np.isfinite(after[1]).all():
            return "scores that are no numbers"
        (old, new) = (
            Detections(boxes[0], scores[0], classes[0])
            for boxes, scores, classes in (before, after)
        )
        px, score, _ = compare_detections(new, old, _SURE)
        moved = max(score, float(np.abs(new.scores - old.scores).max()))
        if moved > _SCORE:
            return f"a score moves by {moved:.3f}"
        if px > _BOX_PX:
            return f"a box moves by {px:.1f} pixels"
    return ""
