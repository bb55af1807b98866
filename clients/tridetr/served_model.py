"""Which model serves the node, for the processes that don't talk to Triton themselves.

The detector writes a small file into ``run_dir`` whenever it has (re)loaded the model; controller and gateway read
the class names from it, because results carry class ids only.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

from tridetr.contract import ModelInfo
from tridetr.files import write_text
from tridetr.models.coco import COCO_91

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
