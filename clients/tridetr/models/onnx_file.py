"""Load ONNX files, and access their metadata and model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from tridetr.errors import ModelError
from tridetr.model_card import ModelCard
from tridetr.models.installed_models import replacing


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata of a model as a dict."""
    return {entry.key: entry.value for entry in model.metadata_props}


def set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Merge ``metadata`` into a model's metadata in place; existing keys are replaced."""
    merged = metadata_of(model) | dict(metadata)
    del model.metadata_props[:]
    for key, value in merged.items():
        model.metadata_props.add(key=key, value=value)


def card_of(model: onnx.ModelProto) -> ModelCard:
    """Return the model card in a model's metadata.

    Raises:
        ModelError: it cannot be parsed.
    """
    return ModelCard.from_metadata(metadata_of(model))


def read_card(path: Path) -> ModelCard:
    """Return the model card of an ONNX file; raises as `load_model` and `card_of`."""
    return card_of(load_model(path))


def type_name(number: int) -> str:
    """Return the name of an ONNX element type; a number that this version of onnx does not know is not an error.

    Example:
        >>> type_name(1), type_name(99)
        ('FLOAT', 'TYPE_99')
    """
    try:
        return str(onnx.TensorProto.DataType.Name(number))
    except ValueError:
        return f"TYPE_{number}"


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model to a file, atomically."""
    with replacing(path) as written:
        onnx.save(model, written)


def load_model(path: Path) -> onnx.ModelProto:
    """Load an ONNX file with its weights.

    Raises:
        ModelError: the file does not exist or is not an ONNX model.
    """
    try:
        return onnx.load(path)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file") from error
    except Exception as error:  # protobuf's DecodeError and onnx's own errors share no base
        raise ModelError(f"{path} cannot be read as an ONNX model: {error}") from error
