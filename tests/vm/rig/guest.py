"""The tests inside the virtual machine: which there are, and what became of them."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest

from vm.rig.machine import Result

GUEST = Path(__file__).parents[1] / "guest"


@dataclass(frozen=True)
class GuestRun:
    """Results of the tests in the virtual machine."""

    result: Result
    failures: dict[str, list[str]]

    def check(self, test: str) -> None:
        """Fail with the guest's output unless all cases of this test passed."""
        if test not in self.failures:
            machine = f"{self.result.console}\n{self.result.output}"[-2000:]
            pytest.fail(f"{test} did not run in the virtual machine:\n{machine}", pytrace=False)
        if self.failures[test]:
            pytest.fail("\n".join(self.failures[test]), pytrace=False)


def guest_tests() -> list[str]:
    """Return the names of the tests inside, read without importing them."""
    return [
        node.name
        for file in sorted(GUEST.glob("guest_*.py"))
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_")
    ]


def read_report(report: Path) -> dict[str, list[str]]:
    """Return the failure of each test in a JUnit file; empty if it passed."""
    if not report.exists():
        return {}
    failures: dict[str, list[str]] = {}
    for case in ET.parse(report).iter("testcase"):
        texts = failures.setdefault(case.get("name", "").partition("[")[0], [])
        if any(entry.tag in ("failure", "error", "skipped") for entry in case):
            texts += [f"{case.get('name')}: {entry.text}" for entry in case]
    return failures
