"""The description of a model: what its file, its engine and the server report about it.

The card travels in the metadata of the ONNX file (`tridetr.*`) and, without that prefix, in the `parameters` of
Triton's model configuration, by which it reaches the clients.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from tridetr.contract import VERSION, check_version
from tridetr.errors import ModelError

PREFIX = "tridetr."


class Form(str, Enum):
    """Which engines a fused graph is written for: any, OpenVINO on a CPU, or ONNX Runtime on an NVIDIA GPU."""

    PORTABLE = "portable"
    OPENVINO = "openvino"
    CUDA = "cuda"


class FrameColor(str, Enum):
    """Matrix and range of a frame, as written into a model's metadata."""

    BT601_LIMITED = "bt601-limited"
    BT601_FULL = "bt601-full"
    BT709_LIMITED = "bt709-limited"
    BT709_FULL = "bt709-full"

    @property
    def matrix(self) -> str:
        """``bt601`` or ``bt709``."""
        return self.value.split("-")[0]

    @property
    def is_full_range(self) -> bool:
        """Whether the bytes use 0..255 (JPEG) instead of 16..235 and 16..240 (video)."""
        return self.value.endswith("full")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a client must know about a model and cannot see in its tensors.

    Attributes:
        classes: class name -> id, as it stands in the output ``classes``.
        resolution: side of the network's square input in pixels; 0: not known.
        source: where the export came from, for people.
        checksum: SHA-256 (hex) of the export that was wrapped.
        color: which meaning of the I420 bytes is baked into the graph.
        default_score: least score that counts as a detection unless the user says otherwise.
        precision: ``fp32``, ``fp16`` or ``int8``.
        form: which engines the graph is written for.
        contract: version of the contract that the model keeps; empty where another program made it.
    """

    classes: Mapping[str, int] = field(default_factory=dict)
    resolution: int = 0
    source: str = ""
    checksum: str = ""
    color: FrameColor = FrameColor.BT601_LIMITED
    default_score: float = 0.5
    precision: str = "unknown"
    form: Form = Form.PORTABLE
    contract: str = VERSION

    def to_metadata(self, prefix: str = PREFIX) -> dict[str, str]:
        """Return the card as strings, for a file's metadata or Triton's parameters; what is not known is left out."""
        known = {
            "classes": json.dumps(dict(self.classes)),
            "source": self.source,
            "checksum": self.checksum,
            "default_score": repr(float(self.default_score)),
        }
        if self.contract:
            known |= {
                "contract": self.contract,
                "resolution": str(self.resolution),
                "color": self.color.value,
                "precision": self.precision,
                "form": self.form.value,
            }
        return {prefix + name: text for name, text in known.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], prefix: str = PREFIX) -> ModelCard:
        """Read a card.

        Args:
            metadata: what ``to_metadata`` returned, among other entries; what is missing is not known.
            prefix: of the keys.

        Raises:
            ModelError: a card of another contract version, or one that cannot be read.
        """
        found = {
            key.removeprefix(prefix): text
            for key, text in metadata.items()
            if text and key.startswith(prefix)
        }
        contract = found.get("contract", "")
        if contract:
            check_version(contract)
        try:
            return cls(
                classes=class_table(found.get("classes", "{}")),
                resolution=int(found.get("resolution", 0)),
                source=found.get("source", ""),
                checksum=found.get("checksum", ""),
                color=FrameColor(found.get("color", FrameColor.BT601_LIMITED)),
                default_score=float(found.get("default_score", 0.5)),
                precision=found.get("precision", "unknown"),
                form=Form(found.get("form", Form.PORTABLE)),
                contract=contract,
            )
        except ValueError as error:
            raise ModelError(
                f"the model's tridetr metadata cannot be read ({error}): fuse the export again"
            ) from error


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What serves the cameras, as far as the server reports it.

    Attributes:
        name: the model's own name, or that of the server's entry.
        version: the first digits of its checksum, or Triton's version.
        engine: backend, such as `onnxruntime`.
        provider: what runs inside it, such as `OpenVINOExecutionProvider`.
        precision: arithmetic inside the engine.
        classes: class name to id, as results have it.
        checksum: SHA-256 (hex) of the export.
        default_score: least score that counts as a detection unless the user sets another.
        color: which meaning of the I420 bytes the graph expects.
    """

    name: str
    version: str
    engine: str
    provider: str
    precision: str
    classes: Mapping[str, int] = field(default_factory=dict)
    checksum: str = ""
    default_score: float = 0.5
    color: str = "frame"


def class_table(text: str) -> dict[str, int]:
    """Parse the `classes` parameter, a JSON object of names and ids.

    Raises:
        ModelError: it is not such an object.
    """
    try:
        table = json.loads(text)
        return {str(name): int(number) for name, number in table.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ModelError(
            f"the model's class table {text[:80]!r} is not a JSON object of names and ids: {error}"
        ) from error
