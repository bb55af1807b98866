"""The facts that a contract model carries in its ONNX metadata (`tridetr.*`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from tridetr.contract import VERSION, check_version
from tridetr.errors import ModelError
from tridetr.models.choices import Form, FrameColor

_PREFIX = "tridetr."


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a client must know about a model and cannot see in its tensors.

    Attributes:
        classes: class name -> id, as it stands in the output ``classes``.
        resolution: side of the network's square input in pixels.
        source: where the export came from, for people.
        checksum: SHA-256 (hex) of the export that was wrapped.
        color: which meaning of the I420 bytes is baked into the graph.
        default_score: least score that counts as a detection unless the user says otherwise.
        precision: ``fp32``, ``fp16`` or ``int8``.
        form: which engines the graph is written for.
    """

    classes: Mapping[str, int]
    resolution: int
    source: str
    checksum: str
    color: FrameColor
    default_score: float
    precision: str
    form: Form = Form.PORTABLE

    def to_metadata(self) -> dict[str, str]:
        """Return the ONNX metadata, string to string."""
        return {
            "tridetr.contract": VERSION,
            "tridetr.classes": json.dumps(dict(self.classes)),
            "tridetr.resolution": str(self.resolution),
            "tridetr.source": self.source,
            "tridetr.checksum": self.checksum,
            "tridetr.color": self.color.value,
            "tridetr.default_score": repr(float(self.default_score)),
            "tridetr.precision": self.precision,
            "tridetr.form": self.form.value,
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> ModelCard | None:
        """Read a card; None where the metadata has none (a contract model of other make).

        Raises:
            ModelError: a card of another contract version, or one that cannot be read.
        """
        version = metadata.get(_PREFIX + "contract")
        if version is None:
            return None
        check_version(version)
        try:
            classes = json.loads(metadata["tridetr.classes"])
            return cls(
                classes={str(name): int(number) for name, number in classes.items()},
                resolution=int(metadata["tridetr.resolution"]),
                source=metadata["tridetr.source"],
                checksum=metadata["tridetr.checksum"],
                color=FrameColor(metadata["tridetr.color"]),
                default_score=float(metadata["tridetr.default_score"]),
                precision=metadata["tridetr.precision"],
                form=Form(metadata.get("tridetr.form", Form.PORTABLE.value)),
            )
        except (KeyError, ValueError, AttributeError) as error:
            raise ModelError(
                f"the model's tridetr metadata cannot be read ({error!r}): fuse the export again"
            ) from error


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata of a model as a dict."""
    return {entry.key: entry.value for entry in model.metadata_props}


def set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Merge ``metadata`` into the model's, replacing equal keys."""
    merged = metadata_of(model) | dict(metadata)
    del model.metadata_props[:]
    for key, value in merged.items():
        model.metadata_props.add(key=key, value=value)


def read_card(path: Path) -> ModelCard | None:
    """Read the card of an ONNX file without its weights; None where it has none.

    Raises:
        ModelError: no such file, or no ONNX model.
    """
    return ModelCard.from_metadata(metadata_of(load_model(path)))


def load_model(path: Path) -> onnx.ModelProto:
    """Load an ONNX file with its weights.

    Raises:
        ModelError: no such file, or no ONNX model.
    """
    try:
        return onnx.load(path)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file") from error
    except Exception as error:
        # protobuf's DecodeError and onnx's own errors share no base; all mean the same here
        raise ModelError(f"{path} cannot be read as an ONNX model: {error}") from error
