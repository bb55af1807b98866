"""Find real footage and models that are not part of the project; tests are skipped, with the reason, without them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


def shared(*parts: str) -> Path:
    """Return a path below the shared folder (``data/…`` or ``models/…``), or skip the test."""
    data = os.environ.get("TRIDETR_TEST_DATA")
    base = Path(data).resolve().parent if data else _ROOT.parent / "shared"
    path = base.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} does not exist (set TRIDETR_TEST_DATA to the folder of the test data)")
    return path


FOOTAGE = ("data", "one-by-one-person-detection.mp4")
FOOTAGE_TRUTH = ("data", "one-by-one-person-detection.person.json")
ORACLE = ("models", "person_oracle.onnx")
