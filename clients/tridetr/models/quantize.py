"""Quantise a model to INT8 with explicit Q/DQ nodes, calibrated on real pictures.

Products of activations with constant weights (MatMul, Gemm, Conv) are quantised: a vision transformer spends most of
its time there. The rest stays in float:

* pre- and post-processing, which are cheap and compute pixels and coordinates;
* products of two activations (attention), whose ranges differ from picture to picture;
* the first layer, which reads the picture, and the last ones, whose outputs are scores or coordinates;
* RF-DETR's small layers that compute scores, coordinates, sampling positions or attention weights: an error of one
  quantisation step moves a box, and together they take a few percent of the time;
* LayerNorm, Softmax and GELU.

Weights are signed, symmetric and per channel. Activations are per tensor, and the engines differ: TensorRT supports
only signed, symmetric activations, with which OpenVINO 2025.4 computes wrong convolutions (person_oracle: AP 0.02
instead of 0.32). So a file is made either for the CPU (unsigned, with a zero point) or for TensorRT.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import quantization

from tridetr.errors import ModelError
from tridetr.model_card import PREFIX, FrameColor, Target
from tridetr.models.graph_builder import precision_of, resolve_shared_weights
from tridetr.models.installed_models import replacing
from tridetr.models.onnx_file import card_of, load_model, metadata_of, set_metadata
from tridetr.models.picture_files import load_rgb, rgb_to_i420
from tridetr.models.wrapping import OUR_PREFIX

PRODUCTS = ("MatMul", "Gemm", "Conv")
MIN_WEIGHTS = 16_384
"""Layers with fewer weights stay in float: quantising them costs more time than it saves."""

_SENSITIVE = re.compile(
    r"bbox_embed|class_embed|ref_point_head|reference_points|sampling_offsets|attention_weights|"
    r"enc_out|patch_embed"
)


class _Frames(quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped
    """Supplies calibration pictures as I420 frames."""

    def __init__(
        self, pictures: Sequence[Path], color: FrameColor, batch: int, progress: Callable[[], None]
    ) -> None:
        self._frames = self._read(pictures, color, batch, progress)

    @staticmethod
    def _read(
        pictures: Sequence[Path], color: FrameColor, batch: int, progress: Callable[[], None]
    ) -> Iterator[dict[str, NDArray[np.uint8]]]:
        for picture in pictures:
            frame = rgb_to_i420(load_rgb(picture), color)
            yield {"frame": np.repeat(frame[None], batch, axis=0)}
            progress()

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._frames, None)


def quantize(
    source: Path,
    output: Path,
    pictures: Sequence[Path],
    *,
    target: Target = Target.CPU,
    keep_float: str | None = None,
    progress: Callable[[], None] = lambda: None,
) -> int:
    """Quantise a contract model to INT8.

    Args:
        source: a contract model in float.
        output: the file to write; it is written atomically.
        pictures: calibration pictures, a few dozen that resemble the cameras' pictures.
        target: the engines that the file is made for.
        keep_float: regular expression for names of further nodes to keep in float.
        progress: called after each calibration picture.

    Returns:
        The number of quantised layers.

    Raises:
        ModelError: the file is not a contract model, is already quantised, or has no layer to quantise.
    """
    model = load_model(source)
    if [value.name for value in model.graph.input] != ["frame"]:
        raise ModelError(
            f"{source} is not a contract model (it has no input `frame`). Remedy: `tridetr models fuse`"
        )
    if precision_of(model) == "int8":
        raise ModelError(f"{source} is quantised already")
    card = card_of(model)
    resolve_shared_weights(model)
    layers = layers_to_quantize(model, re.compile(keep_float) if keep_float else None)
    if not layers:
        raise ModelError(
            f"{source} has no layer that is worth quantising (with {MIN_WEIGHTS} weights or more)"
        )
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    reader = _Frames(pictures, card.color, first.dim_value or 1, progress)
    with replacing(output) as path:
        with _quiet():
            quantization.quantize_static(
                model,
                path,
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=(
                    quantization.QuantType.QUInt8
                    if target is Target.CPU
                    else quantization.QuantType.QInt8
                ),
                weight_type=quantization.QuantType.QInt8,
                nodes_to_quantize=layers,
                extra_options={
                    "ActivationSymmetric": target is Target.TENSORRT,
                    "WeightSymmetric": True,
                    "OpTypesToExcludeOutputQuantization": list(PRODUCTS),
                    "QuantizeBias": False,
                },
            )
        quantised = onnx.load(path)
        set_metadata(quantised, metadata_of(model))
        made = replace(card, precision="int8", quantized_for=target)
        # All that is known of a model without a card
        own = {f"{PREFIX}quantized_for": target.value}
        set_metadata(quantised, made.to_metadata() if card.contract else own)
        onnx.checker.check_model(quantised)
        onnx.save(quantised, path)
    return len(layers)


def layers_to_quantize(model: onnx.ModelProto, keep_float: re.Pattern[str] | None) -> list[str]:
    """Return the names of the nodes to quantise (see the module's docstring).

    Args:
        model: the model.
        keep_float: pattern for names of further nodes to keep in float.
    """
    sizes = {w.name: int(np.prod(w.dims)) for w in model.graph.initializer}
    nodes = list(model.graph.node)
    products = [n for n in nodes if n.op_type in PRODUCTS and not n.name.startswith(OUR_PREFIX)]
    ends = _first_and_last(nodes, {n.name for n in products})
    return [
        node.name
        for node in products
        if sizes.get(node.input[1], 0) >= MIN_WEIGHTS
        and node.name not in ends
        and not _SENSITIVE.search(node.name)
        and not (keep_float and keep_float.search(node.name))
    ]


def _first_and_last(nodes: Sequence[onnx.NodeProto], products: set[str]) -> set[str]:
    """Return the products that depend on no other product, or that no other product depends on."""
    before: set[str] = set()  # values that depend on a product
    first = set()
    for node in nodes:
        depends = any(value in before for value in node.input)
        if node.name in products:
            if not depends:
                first.add(node.name)
            depends = True
        if depends:
            before.update(node.output)
    after: set[str] = set()  # values that a product depends on
    last = set()
    for node in reversed(nodes):
        needed = any(value in after for value in node.output)
        if node.name in products:
            if not needed:
                last.add(node.name)
            needed = True
        if needed:
            after.update(node.input)
    return first | last


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages of onnxruntime that users cannot act on."""

    def is_news(record: logging.LogRecord) -> bool:
        # It recommends a pre-processing that would merge nodes that are selected by name here.
        return "pre-processing before quantization" not in record.getMessage()

    logging.getLogger().addFilter(is_news)
    try:
        # Channels whose weights are all zero cause a numpy warning; onnxruntime handles them correctly.
        with np.errstate(invalid="ignore", divide="ignore"):
            yield
    finally:
        logging.getLogger().removeFilter(is_news)
