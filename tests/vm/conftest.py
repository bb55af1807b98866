"""Boots the virtual machine once for all tests that ran inside it."""

from __future__ import annotations

import ast
import os
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the package `rig`

from rig import Module, Result, UnavailableError, run_in_vm

ROOT = Path(__file__).parents[2]
GUEST = Path(__file__).parent / "guest"
TIMEOUT_S = 600.0
MODULES = [
    # A camera with one buffer a frame, and one with a buffer for each plane; nothing but capture.
    Module("vhci-hcd"),
    Module("uvcvideo"),
    Module("vivid", "n_devs=2 node_types=0x1,0x1 num_inputs=1,1 input_types=0,0 multiplanar=1,2"),
]


@dataclass(frozen=True)
class GuestRun:
    """What the tests inside the virtual machine said."""

    result: Result
    failures: dict[str, list[str]]

    def check(self, test: str) -> None:
        """Fail with the guest's own words unless all cases of this test passed."""
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


@pytest.fixture(scope="session")
def guest_run(tmp_path_factory: pytest.TempPathFactory) -> GuestRun:
    """All tests of `guest/`, run in one virtual machine; skips where there cannot be one."""
    exchange = tmp_path_factory.mktemp("vm") / "exchange"
    exchange.mkdir()
    files = [str(file) for file in sorted(GUEST.glob("guest_*.py"))]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    command += ["-c", "/dev/null", "--rootdir", str(GUEST), "--junitxml=/exchange/junit.xml"]
    command += ["-o", "junit_logging=all"]
    command += ["--durations=0", *files]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": "/guest-tmp",
        "TMPDIR": "/guest-tmp",
        "PYTHONPATH": f"{ROOT / 'clients'}:{ROOT / 'tests'}:{GUEST}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    try:
        result = run_in_vm(
            command,
            exchange,
            modules=MODULES,
            environment=environment,
            cwd=ROOT,
            timeout_s=float(os.environ.get("TRIDETR_VM_TIMEOUT_S", TIMEOUT_S)),
        )
    except UnavailableError as error:
        pytest.skip(f"no virtual machine: {error}")
    return GuestRun(result, _failures(exchange / "junit.xml"))


def _failures(report: Path) -> dict[str, list[str]]:
    if not report.exists():
        return {}
    failures: dict[str, list[str]] = {}
    for case in ET.parse(report).iter("testcase"):
        texts = failures.setdefault(case.get("name", "").partition("[")[0], [])
        if any(entry.tag in ("failure", "error", "skipped") for entry in case):
            texts += [f"{case.get('name')}: {entry.text}" for entry in case]
    return failures
