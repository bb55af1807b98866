"""The system refuses memory or queues: the remedy is logged, and the node recovers when there is room again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.faults import record

SCRIPT = Path(__file__).parents[1] / "support" / "namespace.py"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"),
    reason="needs root, unshare and setpriv",
)


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("shm", ("/dev/shm", "bytes")),
        ("queues", ("queues_max",)),
    ],
)
def test_refused_resources_are_named_and_used_once_available(
    tmp_path: Path, what: str, words: tuple[str, ...]
) -> None:
    node = tmp_path / "node.yaml"
    node.write_text(
        yaml.safe_dump(
            {
                "instance": "exhausted",
                "cameras": {"cam": {"source": "synthetic", "width": 1280, "height": 720, "fps": 5}},
                "run_dir": str(tmp_path / "run"),
                "state_dir": str(tmp_path / "state"),
            }
        )
    )
    probe = subprocess.run(["unshare", "-m", "--ipc", "true"], capture_output=True)
    if probe.returncode:
        pytest.skip("no namespaces here")
    done = subprocess.run(
        ["unshare", "-m", "--ipc", sys.executable, str(SCRIPT), what, str(node)],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    refused, recovered = done.stdout.splitlines()
    print(refused, recovered)
    assert refused.startswith("refused: ")
    assert all(word in refused for word in words), refused
    assert "Traceback" not in done.stdout
    seconds = re.fullmatch(r"recovered: ([\d.]+)", recovered)
    assert seconds
    record(f"{what} exhausted: taken when there was room", float(seconds[1]))
