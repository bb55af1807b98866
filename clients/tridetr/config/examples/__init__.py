"""Example configurations that are part of the package."""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
DEMO = _FOLDER / "demo.yaml"
EXAMPLE = _FOLDER / "example.yaml"
REFERENCE = _FOLDER / "reference.yaml"
