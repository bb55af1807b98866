"""Boots the virtual machine once for all tests that ran inside it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vm.rig import Module, UnavailableError, run_in_vm
from vm.rig.guest import GUEST, GuestRun, read_report

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 600.0
MODULES = [
    Module("vhci-hcd"),  # USB devices made of software
    Module("uvcvideo"),
    # A single-planar and a multi-planar camera, nothing but capture
    Module("vivid", "n_devs=2 node_types=0x1,0x1 num_inputs=1,1 input_types=0,0 multiplanar=1,2"),
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
    command += files
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
    return GuestRun(result, read_report(exchange / "junit.xml"))
