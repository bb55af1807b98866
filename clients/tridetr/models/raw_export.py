"""Recognise a raw RF-DETR export, and explain what is wrong with other models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from tridetr.errors import ModelError
from tridetr.models.onnx_file import metadata_of, type_name

INPUT_NAMES = ("input", "pixel_values")
BOX_NAMES = ("dets", "pred_boxes", "boxes")
LOGIT_NAMES = ("labels", "logits", "pred_logits")
_FLOATS = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}
MIN_OPSET = 13
DROPPED = -1
"""Class id of a logit column that is never reported, such as a background class."""
_METADATA = "tridetr.export"

EXPECTED = (
    "expected an RF-DETR detection export: input 'input' or 'pixel_values' float [B, 3, R, R], "
    "outputs boxes ('dets' or 'pred_boxes', float [B, Q, 4]) and logits ('labels' or 'logits', "
    "float [B, Q, C])"
)

Dim = int | str | None


@dataclass(frozen=True, slots=True)
class RawExport:
    """The interface of an RF-DETR export.

    Attributes:
        input_name: the input, float [B, 3, R, R], normalised RGB.
        input_type: ONNX element type of the input.
        boxes_name: the output with cxcywh in 0..1, [B, Q, 4].
        logits_name: the output with class logits, [B, Q, C].
        batch: the fixed batch size; None = dynamic.
        resolution: R.
        queries: Q; None if the exporter left it symbolic (it is fixed nevertheless).
        columns: C.
        classes: class name -> id, if `tridetr models export` made the file; other columns (a background) are never
            reported.
        source: human-readable origin of the export; empty if another program made the file.
    """

    input_name: str
    input_type: int
    boxes_name: str
    logits_name: str
    batch: int | None
    resolution: int
    queries: int | None
    columns: int
    classes: Mapping[str, int] | None = None
    source: str = ""

    def column_ids(self, classes: Mapping[str, int]) -> list[int]:
        """Return the class id of each logit column; ``DROPPED`` for columns that none of the classes has."""
        ids = set(classes.values())
        return [column if column in ids else DROPPED for column in range(self.columns)]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> RawExport:
        """Return the interface of a model.

        Raises:
            ModelError: the model is not an RF-DETR export; the message shows what was expected and found.
        """
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        if opset < MIN_OPSET:
            raise ModelError(f"the export has opset {opset}, but at least {MIN_OPSET} is required")
        weights = {weight.name for weight in model.graph.initializer}
        inputs = {v.name: v for v in model.graph.input if v.name not in weights}
        outputs = {v.name: v for v in model.graph.output}
        found = f"found {_describe(inputs)} -> {_describe(outputs)}"
        if "frame" in inputs:
            raise ModelError(f"this model is fused already; {EXPECTED}; {found}")
        if len(inputs) != 1 or next(iter(inputs)) not in INPUT_NAMES:
            raise ModelError(f"{EXPECTED}; {found}")
        boxes = next((name for name in BOX_NAMES if name in outputs), None)
        logits = next((name for name in LOGIT_NAMES if name in outputs), None)
        if boxes is None or logits is None:
            missing = "boxes" if boxes is None else "logits"
            raise ModelError(f"the {missing} are missing: {EXPECTED}; {found}")
        if extra := set(outputs) - {boxes, logits}:
            raise ModelError(
                f"unexpected outputs {sorted(extra)} (a segmentation export?): {EXPECTED}; {found}"
            )
        ((input_name, image),) = inputs.items()
        for value in (image, outputs[boxes], outputs[logits]):
            if value.type.tensor_type.elem_type not in _FLOATS:
                raise ModelError(f"'{value.name}' is not float32 or float16: {EXPECTED}; {found}")
        batch, resolution = _image_shape(_dims(image), found)
        queries, columns = _output_shapes(_dims(outputs[boxes]), _dims(outputs[logits]), found)
        facts = json.loads(metadata_of(model).get(_METADATA, "{}"))
        return cls(
            input_name=input_name,
            input_type=image.type.tensor_type.elem_type,
            boxes_name=boxes,
            logits_name=logits,
            batch=batch,
            resolution=resolution,
            queries=queries,
            columns=columns,
            classes=facts.get("classes"),
            source=facts.get("source", ""),
        )


def export_metadata(classes: Mapping[str, int], source: str) -> dict[str, str]:
    """Return the ONNX metadata with which an export passes its classes and origin to ``fuse``."""
    return {_METADATA: json.dumps({"classes": dict(classes), "source": source})}


def _image_shape(dims: list[Dim], found: str) -> tuple[int | None, int]:
    if len(dims) != 4:
        raise ModelError(f"the input has rank {len(dims)} instead of 4: {EXPECTED}; {found}")
    batch, channels, height, width = dims
    if isinstance(batch, int) and batch != 1:
        raise ModelError(
            f"the export has a fixed batch size of {batch}, but frames arrive one by one. Remedy: export it again with "
            "a dynamic batch (`tridetr models export` does; in rfdetr: model.export(dynamic_batch=True)); "
            f"{EXPECTED}; {found}"
        )
    if channels != 3:
        raise ModelError(f"the input has {channels} channels instead of 3: {EXPECTED}; {found}")
    if not isinstance(height, int) or height != width:
        raise ModelError(
            f"the input must have a fixed square size, not {height}x{width}: {EXPECTED}; {found}"
        )
    return batch if isinstance(batch, int) else None, height


def _output_shapes(boxes: list[Dim], logits: list[Dim], found: str) -> tuple[int | None, int]:
    for name, dims in (("boxes", boxes), ("logits", logits)):
        if len(dims) != 3:
            raise ModelError(f"the {name} have rank {len(dims)} instead of 3: {EXPECTED}; {found}")
    _, queries, four = boxes
    _, logit_queries, columns = logits
    if isinstance(four, int) and four != 4:
        raise ModelError(f"a box has {four} numbers instead of 4: {EXPECTED}; {found}")
    if not isinstance(columns, int):
        raise ModelError(f"the number of classes must be fixed: {EXPECTED}; {found}")
    known = {count for count in (queries, logit_queries) if isinstance(count, int)}
    if len(known) > 1:
        raise ModelError(f"{queries} boxes but {logit_queries} rows of logits: {found}")
    return (known.pop() if known else None), columns


def _dims(value: onnx.ValueInfoProto) -> list[Dim]:
    tensor = value.type.tensor_type
    return [
        dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None)
        for dim in tensor.shape.dim
    ]


def _describe(values: dict[str, onnx.ValueInfoProto]) -> str:
    def one(value: onnx.ValueInfoProto) -> str:
        kind = type_name(value.type.tensor_type.elem_type).lower()
        dims = ", ".join("?" if dim is None else str(dim) for dim in _dims(value))
        return f"'{value.name}' {kind} [{dims}]"

    return ", ".join(one(value) for value in values.values()) or "nothing"
