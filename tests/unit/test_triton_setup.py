from __future__ import annotations

import errno
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tridetr.config import Config
from tridetr.errors import TritonError
from tridetr.triton import launch, repository, setup


def test_a_full_disk_is_reported_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was larger than the pod's run volume once ended in repeated tracebacks."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    server = SimpleNamespace(is_native=lambda _: False, backends=None)
    monkeypatch.setattr(setup, "find_server", lambda _: server)
    monkeypatch.setattr(repository, "render", full)
    config = Config.model_validate(
        {"cameras": {"a": {"source": "synthetic"}}, "run_dir": str(tmp_path)}
    )
    made = setup.Setup(config, launch.Layout(tmp_path, tmp_path), (tmp_path / "secret", "s"))
    (tmp_path / "triton").mkdir()
    with pytest.raises(TritonError, match=r"No space left.*MiB are free.*sizeLimit"):
        made.lay_out()


def test_folders_that_the_python_backend_leaves_in_tmp_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start leaves one, regardless of TMPDIR."""
    server = SimpleNamespace(is_native=lambda _: False, backends=None)
    monkeypatch.setattr(setup, "find_server", lambda _: server)
    monkeypatch.setattr(setup, "_ENVIRONMENTS", tmp_path)
    config = Config.model_validate(
        {"cameras": {"a": {"source": "synthetic"}}, "run_dir": str(tmp_path)}
    )
    files = launch.Layout(tmp_path, tmp_path)
    made = setup.Setup(config, files, (files.secret, "s"))
    (tmp_path / "python_env_before").mkdir()
    made.clean()
    assert (tmp_path / "python_env_before").is_dir()  # not from our server
    made._started_unix_s = (tmp_path / "python_env_before").stat().st_ctime + 0.001
    time.sleep(0.01)  # the next folders are newer, also by the coarse clock of the file system
    (tmp_path / "python_env_ours").mkdir()
    (tmp_path / "python_env_used").mkdir()
    (tmp_path / "python_env_used" / "bin").touch()
    files.temporary.mkdir(parents=True)
    (files.temporary / "left").touch()
    made.clean()
    left = sorted(path.name for path in tmp_path.glob("python_env_*"))
    assert left == ["python_env_before", "python_env_used"]
    assert not files.temporary.exists()
    monkeypatch.setattr(setup, "_LEFT_OVER_S", 0)
    made.clean()  # as if an hour had passed: folders of killed runs are removed
    assert [path.name for path in tmp_path.glob("python_env_*")] == ["python_env_used"]


def test_a_metrics_port_in_use_does_not_prevent_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert setup._metrics_port(taken) == 0
    assert f"cannot bind to port {taken} (Address already in use" in caplog.text
    assert setup._metrics_port(0) == 0
