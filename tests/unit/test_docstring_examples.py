"""The examples in the docstrings of the packages are correct."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

CLIENTS = Path(__file__).resolve().parents[2] / "clients"
MODULES = sorted(
    ".".join(path.relative_to(CLIENTS).with_suffix("").parts).removesuffix(".__init__")
    for path in CLIENTS.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0
