"""Small files in the run folder through which the processes of a node find each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tridetr import files
from tridetr.model_card import ModelInfo
from tridetr.served_model import (
    ServedModelReader,
    keep_served_model,
    write_served_model,
)

MODEL = ModelInfo("m", "1", "onnxruntime", "cpu", "fp32", {"person": 7})


def test_a_file_is_replaced_atomically_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "a"
    (tmp_path / ".a.new").write_text("left by a writer that was killed")
    files.write_text(path, "ä")
    files.write_bytes(path, b"second", mode=0o644)
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o644
    files.write_text(path, "third")
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    files.write_text(path, "old")

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fchmod", full)
    with pytest.raises(OSError, match="No space"):
        files.write_bytes(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_model_card_is_rewritten_after_its_file_was_removed(tmp_path: Path) -> None:
    """Its classes used to be replaced by those of COCO: the id of `person` differed, and no person alarmed."""
    write_served_model(tmp_path, MODEL)
    reader = ServedModelReader(tmp_path)
    assert reader.classes() == {"person": 7}
    (file,) = tmp_path.iterdir()
    file.unlink()
    assert reader.classes() == {"person": 7}
    keep_served_model(tmp_path, MODEL)
    assert ServedModelReader(tmp_path).classes() == {"person": 7}
    before = file.stat().st_ino
    keep_served_model(tmp_path, MODEL)
    assert file.stat().st_ino == before
