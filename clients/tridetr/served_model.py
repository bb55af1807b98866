"""Which model serves the node, for the processes that don't talk to Triton themselves.

The detector writes a small file into ``run_dir`` whenever it has (re)loaded the model; controller and gateway read
the class names from it, because results carry class ids only.
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
    """Write the file; readers see the old or the new one, never a part."""
    write_text(run_dir / _FILE, json.dumps(asdict(model)))


def keep_served_model(run_dir: Path, model: ModelInfo) -> None:
    """Write the file again if it was removed."""
    if not (run_dir / _FILE).exists():
        with contextlib.suppress(OSError):  # tried again
            write_served_model(run_dir, model)


class ServedModelReader:
    """Reads the file again only when it has changed."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / _FILE
        self._seen: tuple[int, int] | None = None
        self._model: ModelInfo | None = None

    def read(self) -> ModelInfo | None:
        """Return the model that serves; None until the detector has said so."""
        try:
            status = self._path.stat()
            identity = (status.st_ino, status.st_mtime_ns)
            if identity != self._seen:
                fields = json.loads(self._path.read_text(encoding="utf-8"))
                classes = {str(name): int(number) for name, number in fields["classes"].items()}
                self._model = ModelInfo(**{**fields, "classes": classes})
                self._seen = identity
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return self._model  # unreadable or removed: what was known stays
        return self._model

    def classes(self) -> dict[str, int]:
        """Return class name to id: the served model's, or COCO's while none is known."""
        model = self.read()
        return dict(model.classes) if model else dict(COCO_91)


class Labels:
    """Class id to name; follows the model that serves."""

    def __init__(self, run_dir: Path) -> None:
        self._models = ServedModelReader(run_dir)
        self._names: dict[int, str] = {}
        self.engine = ""
        self.refresh()

    def refresh(self) -> None:
        """Take over the names of the model that serves now; costs a system call."""
        self._names = {number: name for name, number in self._models.classes().items()}
        model = self._models.read()
        provider = model.provider.removesuffix("ExecutionProvider") if model else ""
        parts = (model.engine, provider, model.precision) if model else ()
        self.engine = " ".join(part for part in parts if part)

    def unknown(self, names: Collection[str]) -> tuple[str, ...]:
        """Return those ``names`` that the serving model does not have; none while no model has reported."""
        known = self._models.read() is not None
        return tuple(name for name in names if known and name not in self._names.values())

    def of(self, class_id: int) -> str:
        """Return the name of a class, or `class N` where the model has none for it."""
        return self._names.get(class_id, f"class {class_id}")
