"""A recorder that is killed at any step, or has no disk space, leaves complete files and rows that name them."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from support.small_disks import mounted_tmpfs
from tridetr.recorder.archive import Archive, VisitFacts

SCRIPT = Path(__file__).parents[1] / "support" / "archive_process.py"
OLD = VisitFacts("visit-1", "hall", "person", 1_000, 2_000)
WHOLE = {b"whole", b"whole" * 2, b"crop", b"clip" * 1000}


def named(folder: Path) -> set[str]:
    """Return the files that the rows name."""
    with closing(sqlite3.connect(folder / "evidence.db")) as connection:
        found = connection.execute("SELECT picture, crop, clip FROM visit").fetchall()
    return {name for row in found for name in row if name}


def test_killed_at_each_step(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], check=True)
    folders = sorted(tmp_path.iterdir())
    assert len(folders) > 40, "the process was not killed often enough"
    for folder in folders:
        # As the gateway finds it, before a recorder starts: each row has its files, and they are complete
        for name in named(folder):
            assert (folder / "files" / name).read_bytes() in WHOLE, (folder.name, name)
        with Archive(folder, keep_days=36_500, max_mib=64) as archive:
            left = {file.name for file in archive.files.iterdir()}
        assert left == named(folder), folder.name


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    with mounted_tmpfs(tmp_path, 1) as folder:
        yield folder


def test_a_full_disk_keeps_existing_files(tiny_disk: Path) -> None:
    folder = tiny_disk / "evidence"
    with Archive(folder, keep_days=36_500, max_mib=64) as archive:
        archive.save_picture(OLD, (b"whole", b"crop"), 0.5, {"value": 1.0})
        for room in range(0, 300_000, 20_000):  # with more and more room, also for SQLite
            facts = VisitFacts(f"visit-{2 + room}", "hall", "person", 1_000, 2_000)
            ballast = tiny_disk / "ballast"
            _fill(ballast)
            os.truncate(ballast, max(0, ballast.stat().st_size - room))
            with suppress(OSError, sqlite3.Error):
                archive.save_picture(facts, (b"w" * 100_000, b"crop"), 0.5, {"value": 1.0})
            part = archive.files / f"{room}.mp4.part"  # names are unique
            with suppress(OSError, sqlite3.Error):
                part.write_bytes(b"c" * 50_000)
                archive.save_clip(facts, part, {})
            ballast.unlink()
            part.unlink(missing_ok=True)
            present = {file.name for file in archive.files.iterdir()}
            assert present == named(folder), room
    assert b"whole" in {(folder / "files" / name).read_bytes() for name in named(folder)}


def test_the_last_space_on_the_disk_is_left_to_others(tiny_disk: Path) -> None:
    with Archive(tiny_disk / "evidence", keep_days=7, max_mib=64) as archive:
        ballast = tiny_disk / "ballast"
        _fill(ballast)
        os.truncate(ballast, ballast.stat().st_size - 40_000)
        with pytest.raises(OSError, match="are free"):
            archive.part("clip.mp4")


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096):
            with suppress(OSError):
                while file.write(b"\0" * size) == size:
                    pass
