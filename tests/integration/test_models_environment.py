"""The export environment is created once, completely or not at all (with a package that is already installed)."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tridetr.errors import ModelError
from tridetr.models import environment


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(environment, "REQUIREMENTS", ("pip",))
    return tmp_path / "tridetr"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_is_created_once(cache: Path) -> None:
    lines: list[str] = []
    python = environment.export_python(say=lines.append)
    assert python.is_file()
    assert lines[0].startswith("creating ")
    lines.clear()
    assert environment.export_python(say=lines.append) == python
    assert lines == []
    assert len(list(cache.iterdir())) == 1


def write_wheel(path: Path) -> None:
    """Write a minimal wheel that pip can install."""
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("pkg.py", "")
        info = "pkg-1.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: pkg\nVersion: 1\n")
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_failure_is_reported_and_fixed_by_the_next_run(tmp_path: Path) -> None:
    wheel = tmp_path / "pkg-1-py3-none-any.whl"
    with pytest.raises(ModelError, match=r"pip reports:[\s\S]*pkg-1[\s\S]*--python PATH"):
        environment.export_python([str(wheel)])
    write_wheel(wheel)
    lines: list[str] = []
    assert environment.export_python([str(wheel)], say=lines.append).is_file()
    assert lines[0] == "removing an unfinished environment"
