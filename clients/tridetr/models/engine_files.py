"""TensorRT engines: where they are stored, which one belongs to a model, and what it was built for.

The last is a small file next to the engine, which cannot be read without its GPU. Imports nothing heavy.
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
    """What was given to the build.

    Attributes:
        gpu: name of the GPU.
        tensorrt: version of TensorRT.
        precision: `fp16` or `keep` (the types of the model file).
        least: smallest `frame` [B, 3H/2, W] that it takes.
        usual: the one that it was tuned for.
        largest: the largest one.
    """

    gpu: str
    tensorrt: str
    precision: str
    least: Shape
    usual: Shape
    largest: Shape

    def takes(self, width: int, height: int) -> bool:
        """Whether the engine takes frames of this size."""
        rows = height * 3 // 2
        return (
            self.least[1] <= rows <= self.largest[1] and self.least[2] <= width <= self.largest[2]
        )


def facts_file(engine: Path) -> Path:
    """Return where the facts of an engine stand."""
    return engine.with_name(f"{engine.name}.json")


def write_facts(engine: Path, facts: EngineFacts) -> None:
    """Write the facts beside an engine."""
    facts_file(engine).write_text(json.dumps(asdict(facts), indent=1))


def read_facts(engine: Path) -> EngineFacts | None:
    """Return the facts of an engine, None where it came without.

    Raises:
        ModelError: the file is there and is no such thing.
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
            f"{path} does not say what its engine was built for ({error}). Remedy: build it again "
            "(`tridetr models build-engine --force`)"
        ) from error


def _shape(numbers: Sequence[int]) -> Shape:
    batch, rows, width = map(int, numbers)
    return batch, rows, width


def engines_dir() -> Path:
    """Return where engines built on this machine go: ``$TRIDETR_ENGINES`` or beside the models."""
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
    """Let ``<model>.plan`` beside the engine point to it: the newest engine of a model serves."""
    link = engine.parent / f"{model_checksum[:16]}.plan"
    fresh = link.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(engine.name)
    fresh.replace(link)
    return link


def find_engine(model: Path) -> Path | None:
    """Return the engine built last from this very model file, None where there is none."""
    name = f"{checksum_of(model)[:16]}.plan"
    for folder in (engines_dir(), SYSTEM_FOLDER):
        if (folder / name).is_file():
            return (folder / name).resolve()
    return None
