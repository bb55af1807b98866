"""`tools/make-venv` on a machine whose only Python is newer than the supported ones."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "make-venv"
NEWER = """#!/bin/sh
case "$*" in --version) echo "Python 3.14.1" ;; *) exit 1 ;; esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Return a folder of programs for PATH, with such a Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "dirname", "rm", "id"):
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    program(folder / "python3", NEWER)
    return folder


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def make_venv(machine: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TOOL, folder], env={"PATH": str(machine)}, capture_output=True, text=True, timeout=30
    )


def test_uv_fetches_a_python_that_works(machine: Path, tmp_path: Path) -> None:
    program(machine / "uv", f'#!/bin/sh\necho "$*" >{tmp_path}/asked\n')
    made = make_venv(machine, tmp_path / "venv")
    assert made.returncode == 0, made.stderr
    assert "Python 3.14.1 is not supported" in made.stdout
    asked = (tmp_path / "asked").read_text()
    assert asked == f"venv --quiet --seed --python >=3.10,<3.14 {tmp_path}/venv\n"


def test_the_remedy_is_printed_if_uv_fails(machine: Path, tmp_path: Path) -> None:
    program(machine / "uv", "#!/bin/sh\nexit 2\n")
    made = make_venv(machine, tmp_path / "venv")
    assert made.returncode == 1
    assert "set PYTHON=/path/to/python3" in made.stderr


def test_missing_packages_are_printed_if_there_is_no_installer(
    machine: Path, tmp_path: Path
) -> None:
    made = make_venv(machine, tmp_path / "venv")
    assert made.returncode != 0
    assert "please install the equivalents of: python3-venv" in made.stderr
