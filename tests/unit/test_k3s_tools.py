"""The cluster scripts: they change nothing without `--yes`, and report what is missing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *options: str, path: str = os.defpath) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "tools" / script), *options],
        capture_output=True,
        text=True,
        env={"PATH": path, "HOME": "/nonexistent"},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ([], ["k3s", "kubectl", "Helm"]),
        (["--gpu"], ["NVIDIA container toolkit", "k3s", "Runtime class", "Device plugin", "Label"]),
        (["--k3d", "--gpu", "--images"], ["k3d", "Image of k3s", "Cluster", "tridetr-triton-gpu"]),
    ],
)
def test_the_plan_is_printed_and_nothing_is_done(options: list[str], steps: list[str]) -> None:
    shown = run("k3s-node", *options)
    assert shown.returncode == 0, shown.stderr
    places = [shown.stdout.find(step) for step in steps]
    assert -1 not in places
    assert places == sorted(places)
    assert "Nothing was changed" in shown.stdout


def test_an_unknown_option_is_refused() -> None:
    assert run("k3s-node", "--everything").returncode == 2


def test_missing_parts_of_the_cluster_test_are_named(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "sed"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    refused = run("test-k3s", path=str(tmp_path))
    assert refused.returncode == 1
    assert "missing: helm kubectl" in refused.stderr
