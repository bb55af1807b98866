"""Rewrite a fused model for ONNX Runtime's CUDA provider: joined kernels, and FP16 where the detections stay the same.

ONNX Runtime's transformer optimizer joins attention, layer norms and GELU of the ViT backbone into one kernel each.
FP16 is only faster with joined kernels: without them, each product is cast back and forth. Pre- and post-processing
stay in FP32. A rewrite that changes the detections is discarded.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tridetr.errors import ModelError
from tridetr.model_card import Form
from tridetr.models.onnx_file import card_of, set_metadata
from tridetr.models.reference import Detections
from tridetr.models.unwrap import network_of, with_network
from tridetr.models.verify import compare_detections

_JOINED = ("Attention", "MultiHeadAttention", "SkipLayerNormalization", "LayerNormalization", "Gelu",
           "FastGelu", "BiasGelu")  # fmt: skip
_DOMAIN = "com.microsoft"  # operator domain of the joined kernels
# The CUDA provider supports these only in FP32; in FP16 they would run on the CPU.
_NO_FP16 = ("GridSample",)
_SCORE = 0.02  # largest accepted change of a score
_BOX_PX = 2.0  # largest accepted change of a box coordinate in pixels, at 640x480
_SURE = 0.3  # boxes below this score are not compared
_PICTURES = 4


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A model rewritten for CUDA.

    Attributes:
        model: the model.
        kernels: number of nodes of each joined operator.
        half: whether it computes in FP16.
        refused: rewrites that were tried and discarded, with the reason.
    """

    model: onnx.ModelProto
    kernels: dict[str, int]
    half: bool
    refused: tuple[str, ...]


def for_cuda(fused: onnx.ModelProto) -> Rewritten:
    """Return a fused model rewritten for CUDA; ``fused`` itself is not changed.

    Raises:
        ModelError: the model is not a portable model of `tridetr models fuse`, or the joined kernels change its
            detections.
    """
    card = card_of(fused)
    if not card.contract or card.form is not Form.PORTABLE:
        raise ModelError("only portable models of `tridetr models fuse` can be rewritten for CUDA")
    expected = _results(fused)
    joined = join(network_of(fused))
    best, half = with_network(fused, joined), False
    refused: list[str] = []
    kernels = Counter(node.op_type for node in joined.graph.node if node.op_type in _JOINED)
    if why := _difference(expected, best):
        raise ModelError(
            f"the joined kernels change the detections: {why}. Remedy: use the portable model"
        )
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
    """Return the network with joined kernels (ONNX Runtime's transformer optimizer)."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions("vit")
    options.enable_shape_inference = False  # would need sympy, and joins the same kernels
    joined = optimizer.optimize_model(
        network, model_type="vit", opt_level=0, use_gpu=True, optimization_options=options
    ).model
    assert isinstance(joined, onnx.ModelProto)
    if not any(entry.domain == _DOMAIN for entry in joined.opset_import):
        joined.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return joined


def halve(network: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network in FP16; the data types of its inputs and outputs stay the same."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    model = copy.deepcopy(network)
    # The converter casts only values of a known type, but onnx's shape inference stops at contrib operators.
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
    """Return a model's detections in generated pictures: noise of several grain sizes."""
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
    """Return how a model's detections differ from the expected ones; empty if they are within the bounds."""
    try:
        found = _results(model)
    except Exception as error:  # ONNX Runtime's own exception types
        return f"ONNX Runtime cannot run it ({str(error).splitlines()[0][:160]})"
    for before, after in zip(expected, found, strict=True):
        if not np.isfinite(after[1]).all():
            return "scores are NaN or infinite"
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
