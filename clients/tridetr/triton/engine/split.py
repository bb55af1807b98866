"""Split a fused graph into pre-processing and network, so that one network serves all frame sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tridetr.contract import INPUT, OUTPUTS
from tridetr.errors import ModelError

_OURS = "tridetr/"  # prefix of the names of all nodes that `tridetr models fuse` adds
_RESOLUTION = "tridetr.resolution"


@dataclass(frozen=True, slots=True)
class Parts:
    """The two halves of a fused graph, as serialised ONNX models.

    Attributes:
        pixels: `frame` uint8 [1, rows, width] to `image`, the network's input. No weights.
        network: `image` to `boxes`, `scores` and `classes`; boxes in fractions of the frame.
        image: name of the network's input.
        boxes: name of the network's output with boxes in fractions of the frame.
        batch: the fixed batch size of the file; -1 = dynamic.
    """

    pixels: bytes
    network: bytes
    image: str
    boxes: str
    batch: int


def split(path: Path) -> Parts:
    """Split a model file into its two halves.

    The multiplication of the boxes by the frame's size, at the end of the graph, is left out. So the second half is the
    same for every frame size, and frames of several sizes can share a batch.

    Raises:
        ModelError: `tridetr models fuse` did not make the file.
    """
    import onnx
    from onnx.helper import make_tensor_value_info
    from onnx.utils import Extractor

    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    outer = [node for node in model.graph.node if node.name.startswith(_OURS)]
    inner = {value for node in model.graph.node for value in node.input} - {
        value for node in outer for value in node.input
    }
    seams = [value for node in outer for value in node.output if value in inner]
    makers = {value: node for node in outer for value in node.output}
    last = makers.get(OUTPUTS[0])
    if len(seams) != 1 or last is None or last.op_type != "Mul":
        raise ModelError(f"{path.name} was not made by `tridetr models fuse`")
    image, boxes = seams[0], last.input[0]
    frame, found = model.graph.input[0], {value.name: value for value in model.graph.output}
    first = _sizes(frame)[0]
    side = int({entry.key: entry.value for entry in model.metadata_props}[_RESOLUTION])
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    # Set the known sizes: shape inference does not find all of them across the Resize nodes.
    seam = make_tensor_value_info(image, kinds[image], [first, 3, side, side])
    shown = make_tensor_value_info(boxes, kinds[boxes], [first, *_sizes(found[OUTPUTS[0]])[1:]])
    for value in (seam, shown):
        known = next(info for info in model.graph.value_info if info.name == value.name)
        known.CopyFrom(value)
    extractor = Extractor(model)
    pixels = extractor.extract_model([INPUT], [image])
    network = extractor.extract_model([image], [boxes, *OUTPUTS[1:]])
    batch = first if isinstance(first, int) else -1
    return Parts(pixels.SerializeToString(), network.SerializeToString(), image, boxes, batch)


def _sizes(value: Any) -> list[int | str]:
    dims = value.type.tensor_type.shape.dim
    return [int(dim.dim_value) if dim.HasField("dim_value") else str(dim.dim_param) for dim in dims]
