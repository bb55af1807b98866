"""The examples in docstrings work."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import tridetr

CLIENTS = Path(tridetr.__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(CLIENTS).with_suffix("").parts).removesuffix(".__init__")
    for path in CLIENTS.rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
