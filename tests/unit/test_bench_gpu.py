"""The GPU benchmarks without a GPU: they print help, and exit immediately with the reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tridetr.machine import find_gpus

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if path.name != "rig.py")


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_has_help(script: str) -> None:
    answer = run(FOLDER / script, "--help")
    assert answer.returncode == 0, answer.stderr
    assert f"python benchmarks/gpu/{script}" in answer.stdout


def test_without_a_gpu_nothing_is_measured_and_the_reason_is_given(tmp_path: Path) -> None:
    if find_gpus().count:
        pytest.skip("there is a GPU")
    out = tmp_path / "gpu.json"
    answer = run(FOLDER / "all.py", "--out", out)
    assert answer.returncode == 3
    assert "no GPU, so nothing is measured: the NVIDIA driver" in answer.stderr
    assert not out.exists()
