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
from tridetr.triton import launch
from tridetr.triton.installation import find_server
from tridetr.triton.launch import Layout, code_folder, prepare_backends


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


def test_the_server_runs_if_the_state_folder_is_read_only_too(
    noexec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worn memory card becomes read-only, and the node must still detect."""
    shared_tmp = tmp_path / "tmp"
    shared_tmp.mkdir()
    monkeypatch.setattr(launch, "PUBLIC", (noexec, shared_tmp))
    state = noexec / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(state)], check=True)
    try:
        code = Layout(noexec / "run", state).code
        assert code.is_relative_to(shared_tmp)
        assert Layout(noexec / "other", state).code != code
        (noexec / "run" / "triton").mkdir(parents=True)
        prepare_backends(find_server(), "onnxruntime", Layout(noexec / "run", state))
        assert code.parent.stat().st_mode & 0o777 == 0o700
        assert (code / "server/tritonserver/backends/onnxruntime/model.py").exists()
    finally:
        subprocess.run(["umount", state], check=True)


def test_the_code_returns_to_a_run_folder_that_may_execute(
    noexec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, state = tmp_path / "run", tmp_path / "state"
    monkeypatch.setattr(launch, "PUBLIC", (noexec,))
    assert Layout(noexec, state).code == state / "triton"
    assert Layout(run, noexec).code == Layout(run, noexec).root
    with pytest.raises(TritonError, match=r"`noexec`.*Remedy: set one of them"):
        code_folder(noexec / "a", noexec / "b")
