"""Where TensorRT engines lie, and which one belongs to a model file. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tridetr.models.store import models_dir

SYSTEM_FOLDER = Path("/var/cache/tridetr")
"""Where the chart mounts the node's engine cache."""


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
