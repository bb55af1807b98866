from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tridetr
from tridetr.python_module import module_command


@pytest.mark.parametrize("version", [(3, 10), sys.version_info])
def test_a_module_never_runs_code_from_the_working_directory(
    version: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("runpy", "random", "select", "argparse", "posix_ipc", "tridetr"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('planted')")
    monkeypatch.setattr(sys, "version_info", version)
    command = module_command("tridetr.broker", "--help")
    monkeypatch.undo()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--run-dir" in done.stdout


def test_every_module_that_is_run_is_run_this_way() -> None:
    files = Path(tridetr.__file__).parent.rglob("*.py")
    found = {file.name for file in files if re.search(r'executable, *"-[mc]"', file.read_text())}
    assert found == {"python_module.py"}
