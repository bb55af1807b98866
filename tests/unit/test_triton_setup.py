from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from tridetr.config import Config
from tridetr.errors import TritonError
from tridetr.triton import launch, repository, setup


def test_no_room_for_the_servers_files_is_said_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was larger than the pod's run volume ended in a traceback, again and again."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    server = SimpleNamespace(is_native=lambda _: False, backends=None)
    monkeypatch.setattr(setup, "find_server", lambda _: server)
    monkeypatch.setattr(repository, "render", full)
    config = Config.model_validate(
        {"cameras": {"a": {"source": "synthetic"}}, "run_dir": str(tmp_path)}
    )
    made = setup.Setup(config, launch.layout(tmp_path), (tmp_path / "secret", "s"))
    (tmp_path / "triton").mkdir()
    with pytest.raises(TritonError, match=r"No space left.*MiB are free.*sizeLimit"):
        made.lay_out()
