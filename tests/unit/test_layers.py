"""Which parts of the package may import which: dependencies point down."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tridetr

PACKAGE = Path(tridetr.__file__).parent


def imported(folder: str) -> dict[str, set[str]]:
    """Return the modules of tridetr that each file below a folder imports, also inside functions."""
    found = {}
    for file in (PACKAGE / folder).rglob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        found[str(file.relative_to(PACKAGE))] = {n for n in names if n.startswith("tridetr.")}
    assert found
    return found


@pytest.mark.parametrize(
    ("folder", "above"),
    [
        ("models", ("triton", "detector", "controller", "gateway", "capture", "supervisor")),
        ("triton", ("detector", "controller", "gateway", "capture", "supervisor")),
        ("wire", ("shm", "triton", "models", "detector", "controller", "gateway", "capture")),
    ],
)
def test_nothing_imports_what_is_above_it(folder: str, above: tuple[str, ...]) -> None:
    wrong = {
        file: sorted(names)
        for file, modules in imported(folder).items()
        if (names := {m for m in modules if m.startswith(tuple(f"tridetr.{a}." for a in above))})
    }
    assert not wrong
