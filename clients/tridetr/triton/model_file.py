"""Read an ONNX model file: its tensors, and the metadata that `tridetr models fuse` wrote."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tridetr.contract import Tensor, check_contract
from tridetr.errors import ModelError
from tridetr.files import checksum_of
from tridetr.model_card import ModelCard, Target
from tridetr.models.installed_models import missing_model

_TRITON_TYPES = {"UINT8": "UINT8", "FLOAT": "FP32", "INT32": "INT32", "FLOAT16": "FP16"}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """An ONNX file that conforms to the contract.

    Attributes:
        path: the file.
        frame: the input.
        outputs: the outputs.
        card: the model's description, without class names if the file has none.
    """

    path: Path
    frame: Tensor
    outputs: tuple[Tensor, ...]
    card: ModelCard

    @property
    def batch(self) -> int:
        """The fixed batch size of the graph; -1 if it is dynamic."""
        return self.frame.shape[0]


def read_model_file(path: Path) -> ModelFile:
    """Read and check an ONNX file.

    Raises:
        ModelError: the file is missing, is not an ONNX model, or does not conform to the contract.
    """
    try:
        import onnx

        from tridetr.models.graph_builder import has_tensorrt_activations
        from tridetr.models.onnx_file import card_of, type_name
        from tridetr.models.raw_export import BOX_NAMES, INPUT_NAMES, LOGIT_NAMES
    except ImportError:
        raise ModelError(
            "the onnx package is missing: pip install 'tridetr[server]' on the machine that runs Triton"
        ) from None
    if not path.is_file():
        raise ModelError(missing_model(path))
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError or others, depending on the version
        raise ModelError(f"{path} is not an ONNX model: {error}") from error

    def tensor(value: onnx.ValueInfoProto) -> Tensor:
        kind = value.type.tensor_type
        name = type_name(kind.elem_type)
        shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
        return Tensor(value.name, _TRITON_TYPES.get(name, name), shape)

    weights = {initializer.name for initializer in model.graph.initializer}
    inputs = [tensor(value) for value in model.graph.input if value.name not in weights]
    outputs = tuple(tensor(value) for value in model.graph.output)
    names = {value.name for value in (*inputs, *outputs)}
    if all(names.intersection(known) for known in (INPUT_NAMES, BOX_NAMES, LOGIT_NAMES)):
        raise ModelError(
            f"{path} is a raw RF-DETR export without pre- and post-processing. Remedy: `tridetr models install "
            f"{path} --name {path.stem}`, then set `model: {{file: {path.stem}}}` (use `tridetr models fuse` if the "
            "file lacks its class names)"
        )
    check_contract(path.name, inputs, outputs)
    card = card_of(model)
    if card.quantized_for is None and has_tensorrt_activations(model):
        card = replace(card, quantized_for=Target.TENSORRT)
    return ModelFile(path, inputs[0], outputs, _completed(card, path))


def _completed(card: ModelCard, path: Path) -> ModelCard:
    """Fill in origin and checksum if they are missing in a model that another program made."""
    return replace(
        card,
        source=card.source or path.name,
        checksum=card.checksum or checksum_of(path),
    )
