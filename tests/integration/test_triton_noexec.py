"""Debian and Ubuntu mount /run `noexec`: the server's code must be elsewhere."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.data import ORACLE, shared
from support.triton import running_triton, triton_config
from tridetr.doctor.system import check_code
from tridetr.errors import TritonError
from tridetr.triton.launch import Layout, code_folder


@pytest.fixture
def noexec(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "noexec"
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "noexec,mode=700", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(line, capture_output=True).returncode:
        pytest.skip("only root may mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_the_server_runs_with_a_run_folder_that_is_mounted_noexec(
    noexec: Path, tmp_path: Path
) -> None:
    config = triton_config(tmp_path, shared(*ORACLE))
    config = config.model_copy(update={"run_dir": noexec / "run"})
    with running_triton(config) as triton:
        stub = triton.stub()
        assert Path(stub.exe()).is_relative_to(config.state_dir)
        assert config.state_dir.stat().st_mode & 0o777 == 0o700
    (finding,) = check_code(config)
    assert (finding.level, str(config.state_dir) in finding.text) == ("ok", True)


def test_the_code_returns_to_a_run_folder_that_may_execute(noexec: Path, tmp_path: Path) -> None:
    run, state = tmp_path / "run", tmp_path / "state"
    assert Layout(noexec, state).code == state / "triton"
    assert Layout(run, noexec).code == Layout(run, noexec).root
    with pytest.raises(TritonError, match=r"`noexec`.*Remedy: set one of them"):
        code_folder(noexec / "a", noexec / "b")
