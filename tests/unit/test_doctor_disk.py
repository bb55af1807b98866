"""The doctor's check of the disk space for state, and for pictures and clips of visits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tridetr.config import Config
from tridetr.config.load import parse_config
from tridetr.config.memory import MIB, STATE_MIB, state_mib
from tridetr.doctor.system import check_disk


def parse(folder: Path, more: str = "") -> Config:
    text = f"cameras: {{hall: {{source: synthetic}}}}\nstate_dir: {folder}\n{more}"
    return parse_config(text, origin=folder / "tridetr.yaml")


def test_evidence_includes_a_clip_that_is_being_written(tmp_path: Path) -> None:
    plain = parse(tmp_path)
    assert state_mib(plain) == STATE_MIB
    with_evidence = parse(tmp_path, "evidence: {max_mib: 100}")
    assert state_mib(with_evidence) == STATE_MIB + 125
    elsewhere = parse(tmp_path, "evidence: {path: /mnt/visits}")
    assert state_mib(elsewhere) == STATE_MIB


@pytest.mark.parametrize(("free_mib", "level"), [(300, "warning"), (371, "ok")])
def test_evidence_on_disk_counts_as_available_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_mib: int, level: str
) -> None:
    config = parse(tmp_path, "evidence: {max_mib: 100}")
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "clip.mp4").write_bytes(bytes(10 * MIB))
    usage = shutil.disk_usage(tmp_path)._replace(free=free_mib * MIB)
    monkeypatch.setattr("tridetr.doctor.system.shutil.disk_usage", lambda folder: usage)
    (finding,) = check_disk(config)
    assert finding.level == level
    assert finding.text == f"{free_mib + 10} MiB for state and evidence, 381 MiB needed"


def test_a_file_that_the_recorder_has_just_removed_is_not_a_fault(tmp_path: Path) -> None:
    """A clip that was renamed between listing and measuring used to make the whole check a warning."""
    config = parse(tmp_path, "evidence: {max_mib: 16}")
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "clip.mp4.part").symlink_to("gone")
    (finding,) = check_disk(config)
    assert "MiB for state and evidence" in finding.text


def test_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    config = parse(tmp_path / "a" / "b")
    (finding,) = check_disk(config)
    assert finding.subject == f"{tmp_path}/a/b"
