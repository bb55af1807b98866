"""What a TensorRT engine was built for: a small file beside it, since an engine is unreadable without its GPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tridetr.errors import ModelError

Shape = tuple[int, int, int]


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
