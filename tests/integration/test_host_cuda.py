"""CUDA driver calls through the real cuda-bindings, with a driver library that uses host memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tridetr.machine import find_gpus, has_bindings

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "support" / "host_cuda.c"

pytestmark = [
    pytest.mark.skipif(not has_bindings(), reason="cuda-bindings is not installed (extra dev)"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler (apt install gcc)"),
    pytest.mark.skipif(find_gpus().count > 0, reason="there is a GPU: benchmarks/gpu/check.py"),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which our library is loaded instead of NVIDIA's."""
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libcuda.so.1"
    name = f"-Wl,-soname,{library.name}"
    subprocess.run(["gcc", "-w", "-shared", "-fPIC", name, "-o", library, SOURCE], check=True)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}


def test_ring_and_kernel_across_processes(environment: dict[str, str], tmp_path: Path) -> None:
    script, out = ROOT / "benchmarks" / "gpu" / "check.py", tmp_path / "out.json"
    line = [sys.executable, str(script), "--only", "ring", "kernel", "--json", str(out)]
    answer = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    figures = json.loads(out.read_text())["figures"]
    same = {"ok": True, "largest_difference": 0, "mean_difference": 0.0}
    assert figures == {"ring": same, "kernel": same}
    assert not list(Path("/dev/shm").glob("hostcuda-*"))


def test_copies_are_measured(environment: dict[str, str], tmp_path: Path) -> None:
    script, out = ROOT / "benchmarks" / "gpu" / "copies.py", tmp_path / "out.json"
    line = [sys.executable, str(script), "--runs", "3", "--json", str(out)]
    answer = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    figures = json.loads(out.read_text())["figures"]
    assert len(figures["cases"]) == 4
    assert all(case["gpu_ms"]["min"] > 0 for case in figures["cases"].values())
