"""Share the served model's description with the processes that do not talk to Triton.

The detector writes a small file to ``run_dir`` whenever a model starts to serve. The controller and the gateway read
the class names from it, because results contain class ids only.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from tridetr.contract import COCO_91
from tridetr.files import write_text
from tridetr.model_card import ModelInfo

_FILE = "served_model.json"


def write_served_model(run_dir: Path, model: ModelInfo) -> None:
    """Write the description of the served model to the run folder, atomically."""
    write_text(run_dir / _FILE, json.dumps(asdict(model)))


def keep_served_model(run_dir: Path, model: ModelInfo) -> None:
    """Write the description of the served model again if its file was removed."""
    if not (run_dir / _FILE).exists():
        with contextlib.suppress(OSError):  # the caller tries again
            write_served_model(run_dir, model)


class ServedModelReader:
    """Reads the served model's file, and caches it until the file changes."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / _FILE
        self._seen: tuple[int, int] | None = None
        self._model: ModelInfo | None = None

    def read(self) -> ModelInfo | None:
        """Return the served model; None until the detector has written the file."""
        try:
            status = self._path.stat()
            identity = (status.st_ino, status.st_mtime_ns)
            if identity != self._seen:
                fields = json.loads(self._path.read_text(encoding="utf-8"))
                classes = {str(name): int(number) for name, number in fields["classes"].items()}
                self._model = ModelInfo(**{**fields, "classes": classes})
                self._seen = identity
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return self._model  # unreadable or removed: keep the last known model
        return self._model

    def classes(self) -> dict[str, int]:
        """Return class name -> id of the served model, or COCO's while no model is known."""
        model = self.read()
        return dict(model.classes) if model else dict(COCO_91)


class Labels:
    """Class names by id, following the served model.

    Attributes:
        engine: backend, provider and precision of the served model, such as ``onnxruntime OpenVINO bf16``; empty while
            no model is known.
    """

    def __init__(self, run_dir: Path) -> None:
        self._models = ServedModelReader(run_dir)
        self._names: dict[int, str] = {}
        self.engine = ""
        self.refresh()

    def refresh(self) -> None:
        """Update the names and the engine from the served model; costs a system call if nothing changed."""
        self._names = {number: name for name, number in self._models.classes().items()}
        model = self._models.read()
        provider = model.provider.removesuffix("ExecutionProvider") if model else ""
        parts = (model.engine, provider, model.precision) if model else ()
        self.engine = " ".join(part for part in parts if part)

    def unknown(self, names: Collection[str]) -> tuple[str, ...]:
        """Return the ``names`` that the served model does not have; empty while no model is known."""
        known = self._models.read() is not None
        return tuple(name for name in names if known and name not in self._names.values())

    def of(self, class_id: int) -> str:
        """Return the name of a class, or `class N` if the model does not name it."""
        return self._names.get(class_id, f"class {class_id}")
