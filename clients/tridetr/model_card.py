"""Model descriptions: the card stored in a model's file, and the information that the server reports.

The card is stored in the metadata of the ONNX file (`tridetr.*`). Clients read it from the `parameters` of Triton's
model configuration, where the keys have no prefix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from tridetr.contract import VERSION, check_version
from tridetr.errors import ModelError
from tridetr.foreign_text import is_unicode

PREFIX = "tridetr."
MAX_CLASS_ID = (1 << 16) - 1  # results store ids as uint16

NAME_CLASSES = "name them in the metadata of its file (docs/models.md, Class names)"


class Form(str, Enum):
    """The engines that a fused graph is written for: any, OpenVINO on a CPU, or ONNX Runtime on an NVIDIA GPU."""

    PORTABLE = "portable"
    OPENVINO = "openvino"
    CUDA = "cuda"


class Target(str, Enum):
    """The engines that a quantised file is made for."""

    CPU = "cpu"
    TENSORRT = "tensorrt"


class FrameColor(str, Enum):
    """Colour matrix and range of a frame, as stored in a model's metadata."""

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
        """Whether the samples use 0..255 (JPEG) instead of 16..235 and 16..240 (video)."""
        return self.value.endswith("full")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The facts about a model that a client needs and that its tensors do not show.

    Attributes:
        classes: class name -> id, as in the output ``classes``.
        resolution: side of the network's square input in pixels; 0: unknown.
        source: human-readable origin of the export.
        checksum: SHA-256 (hex) of the export that was wrapped.
        color: colour matrix and range of the I420 frames, built into the graph.
        default_score: minimum score of a detection unless the configuration sets another.
        precision: ``fp32``, ``fp16``, ``int8``, or ``unknown``.
        form: the engines that the graph is written for.
        quantized_for: the engines that an INT8 file is made for; None: unknown, or not quantised.
        contract: contract version of the model; empty if another program made it.
    """

    classes: Mapping[str, int] = field(default_factory=dict)
    resolution: int = 0
    source: str = ""
    checksum: str = ""
    color: FrameColor = FrameColor.BT601_LIMITED
    default_score: float = 0.5
    precision: str = "unknown"
    form: Form = Form.PORTABLE
    quantized_for: Target | None = None
    contract: str = VERSION

    def __post_init__(self) -> None:
        """Check the values that would silently suppress detections.

        Raises:
            ModelError: the default score is not a number from 0 to below 1.
        """
        if not 0 <= self.default_score < 1:
            raise ModelError(
                f"the model's default score is {self.default_score}, which no detection reaches: fuse the export "
                "again with a score from 0 to below 1"
            )

    def to_metadata(self, prefix: str = PREFIX) -> dict[str, str]:
        """Return the card as strings, for a file's metadata or Triton's parameters; unknown fields are left out."""
        known = {
            "classes": json.dumps(dict(self.classes)),
            "source": self.source,
            "checksum": self.checksum,
            "default_score": repr(float(self.default_score)),
        }
        if self.quantized_for is not None:
            known["quantized_for"] = self.quantized_for.value
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
        """Parse a card from metadata entries.

        Args:
            metadata: the entries of ``to_metadata``, possibly among others; missing ones count as unknown.
            prefix: prefix of the keys.

        Raises:
            ModelError: the card has another contract version, or cannot be parsed.
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
                quantized_for=Target(text) if (text := found.get("quantized_for")) else None,
                contract=contract,
            )
        except (ValueError, OverflowError) as error:
            raise ModelError(
                f"the model's tridetr metadata cannot be read ({error}): fuse the export again"
            ) from error


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that serves the cameras, as reported by the server.

    Attributes:
        name: the model's own name, or the name of its entry in the server's repository.
        version: the first digits of its checksum, or Triton's version number.
        engine: backend, such as `onnxruntime`.
        provider: execution provider of the backend, such as `OpenVINOExecutionProvider`.
        precision: arithmetic precision of the engine.
        classes: class name -> id, as in the results.
        checksum: SHA-256 (hex) of the export.
        default_score: minimum score of a detection unless the configuration sets another.
        color: colour matrix and range that the graph expects (a `FrameColor` value), or `frame` if unknown.
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
    """Parse the `classes` parameter, a JSON object of class names and ids.

    >>> class_table('{"person": 1, "car": 3}')
    {'person': 1, 'car': 3}

    Raises:
        ModelError: the text is not such an object, a name is not Unicode text, an id does not fit into uint16, or a
            name or an id occurs twice.
    """
    try:
        pairs = json.loads(text, object_pairs_hook=tuple)  # a tuple is an object, a list an array
        table = {str(name): _class_id(number) for name, number in pairs}
        if not isinstance(pairs, tuple):
            raise TypeError("an array")
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ModelError(
            f"the model's class table {text[:80]!r} is not a JSON object of names and ids: {error}"
        ) from error
    for name in table:
        if not is_unicode(name):
            raise ModelError(
                f"the model's class table has the name {name[:80]!r}, which is not valid Unicode text: rename the "
                "class and export the model again"
            )
    if not len(pairs) == len(table) == len(set(table.values())):
        raise ModelError(f"the model's class table {text[:80]!r} has a name or an id twice")
    return table


def _class_id(number: str | float) -> int:
    found = int(number)
    if not 0 <= found <= MAX_CLASS_ID:
        raise ValueError(f"the id {found} is not from 0 to {MAX_CLASS_ID}")
    return found
