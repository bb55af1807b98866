"""TensorRT engines: their build parameters, the cache folder, and the engine of a model.

The build parameters are in a small file next to the engine, which itself cannot be read without its GPU. This module
imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tridetr.errors import ModelError
from tridetr.files import checksum_of
from tridetr.models.installed_models import models_dir

Shape = tuple[int, int, int]
SYSTEM_FOLDER = Path("/var/cache/tridetr")
"""Where the chart mounts the node's engine cache."""
PROBE_SIZE = (64, 48)
"""Width and height of the frame with which the watcher probes the server."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Optimisation profile: minimum, optimum and maximum shape of the input ``frame`` [B, 3H/2, W]."""

    least: Shape
    usual: Shape
    largest: Shape

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]], max_batch: int) -> Profile:
        """Return a profile that covers all frame sizes (width, height); it is optimised for the first one.

        It also covers the watcher's small frame.

        >>> Profile.of([(1920, 1080), (640, 480)], max_batch=4)
        Profile(least=(1, 72, 64), usual=(1, 1620, 1920), largest=(4, 1620, 1920))

        Raises:
            ModelError: there is no size, a size is odd, or ``max_batch`` is less than 1.
        """
        if not sizes:
            raise ModelError("give at least one frame size, such as --size 1920x1080")
        if max_batch < 1:
            raise ModelError(f"the largest batch must be at least 1, got {max_batch}")
        for width, height in sizes:
            if width < 2 or height < 2 or width % 2 or height % 2:
                raise ModelError(
                    f"{width}x{height} is not a valid I420 frame size: width and height must be even"
                )
        widths, rows = [w for w, _ in sizes], [h * 3 // 2 for _, h in sizes]
        return cls(
            (1, min(*rows, PROBE_SIZE[1] * 3 // 2), min(*widths, PROBE_SIZE[0])),
            (1, rows[0], widths[0]),
            (max_batch, max(rows), max(widths)),
        )

    def takes(self, width: int, height: int) -> bool:
        """Return whether the engine supports frames of this size."""
        rows = height * 3 // 2
        return (
            self.least[1] <= rows <= self.largest[1] and self.least[2] <= width <= self.largest[2]
        )


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The build parameters of an engine.

    Attributes:
        gpu: name of the GPU.
        tensorrt: version of TensorRT.
        precision: `fp16` or `keep` (the data types of the model file).
        profile: the shapes that it supports.
    """

    gpu: str
    tensorrt: str
    precision: str
    profile: Profile

    def file_name(self, model_checksum: str) -> str:
        """Return a readable file name: engines of the same name are interchangeable."""
        gpu = re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-")
        digest = hashlib.sha256(f"{model_checksum} {self.profile}".encode()).hexdigest()[:12]
        return f"{gpu}_trt{self.tensorrt}_{self.precision}_{digest}.plan"


def facts_file(engine: Path) -> Path:
    """Return the path of the file with an engine's build parameters."""
    return engine.with_name(f"{engine.name}.json")


def write_facts(engine: Path, facts: EngineFacts) -> None:
    """Write the build parameters next to an engine."""
    fields = asdict(facts)
    fields |= fields.pop("profile")
    facts_file(engine).write_text(json.dumps(fields, indent=1))


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
            profile=Profile(*(_shape(fields[name]) for name in ("least", "usual", "largest"))),
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
