"""Files of TensorRT engines: the cache folder, the engine of a model, and its build parameters.

The build parameters are in a small file next to the engine, which itself cannot be read without its GPU. This module
imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tridetr.errors import ModelError
from tridetr.models.installed_models import models_dir

Shape = tuple[int, int, int]
SYSTEM_FOLDER = Path("/var/cache/tridetr")
"""Where the chart mounts the node's engine cache."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The build parameters of an engine.

    Attributes:
        gpu: name of the GPU.
        tensorrt: version of TensorRT.
        precision: `fp16` or `keep` (the data types of the model file).
        least: minimum shape of `frame` [B, 3H/2, W].
        usual: the shape that the engine is optimised for.
        largest: maximum shape.
    """

    gpu: str
    tensorrt: str
    precision: str
    least: Shape
    usual: Shape
    largest: Shape

    def takes(self, width: int, height: int) -> bool:
        """Return whether the engine supports frames of this size."""
        rows = height * 3 // 2
        return (
            self.least[1] <= rows <= self.largest[1] and self.least[2] <= width <= self.largest[2]
        )


def facts_file(engine: Path) -> Path:
    """Return the path of the file with an engine's build parameters."""
    return engine.with_name(f"{engine.name}.json")


def write_facts(engine: Path, facts: EngineFacts) -> None:
    """Write the build parameters next to an engine."""
    facts_file(engine).write_text(json.dumps(asdict(facts), indent=1))


def read_facts(engine: Path) -> EngineFacts | None:
    """Return the build parameters of an engine; None if the file does not exist.

    Raises:
        ModelError: the file exists but is invalid.
    """
    path = facts_file(engine)
    try:
        fields = json.loads(path.read_text())
        return EngineFacts(
            gpu=str(fields["gpu"]),
            tensorrt=str(fields["tensorrt"]),
            precision=str(fields["precision"]),
            least=_shape(fields["least"]),
            usual=_shape(fields["usual"]),
            largest=_shape(fields["largest"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{path} does not contain the build parameters of its engine ({error}). Remedy: build the engine again "
            "(`tridetr models build-engine --force`)"
        ) from error


def _shape(numbers: Sequence[int]) -> Shape:
    batch, rows, width = map(int, numbers)
    return batch, rows, width


def engines_dir() -> Path:
    """Return the folder of engines built on this machine: ``$TRIDETR_ENGINES``, or next to the models folder."""
    folder = os.environ.get("TRIDETR_ENGINES")
    return Path(folder) if folder else models_dir().parent / "engines"


def checksum_of(model: Path) -> str:
    """Return the SHA-256 of a model file."""
    with model.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def link_engine(engine: Path, model_checksum: str) -> Path:
    """Point the link ``<model checksum>.plan`` to an engine, which then serves that model; return the link."""
    link = engine.parent / f"{model_checksum[:16]}.plan"
    fresh = link.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(engine.name)
    fresh.replace(link)
    return link


def find_engine(model: Path) -> Path | None:
    """Return the engine that was built last from this model file; None if there is none."""
    name = f"{checksum_of(model)[:16]}.plan"
    for folder in (engines_dir(), SYSTEM_FOLDER):
        if (folder / name).is_file():
            return (folder / name).resolve()
    return None
