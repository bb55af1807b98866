"""The recorder starts on a disk that is full, read-only or failing, and saves when the disk can be used."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.recorder import Recorder, recording
from support.small_disks import Ext4Disk, fill, mounted_ext4, mounted_tmpfs
from support.waiting import wait_for
from tridetr.config import Config
from tridetr.errors import TridetrError
from tridetr.recorder import opening
from tridetr.recorder.archive import Archive, VisitFacts
from tridetr.recorder.disk_faults import is_full, may_pass
from tridetr.telemetry import metrics

KIB = 1024
HOUR_NS = 3600 * 10**9
PICTURE = 200 * KIB
_PAUSE = threading.Lock()


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small disk; the blocks of the ext4 have 1 KiB."""
    if request.param == "ext4":
        with mounted_ext4(tmp_path) as made:
            yield made.folder
    else:
        with mounted_tmpfs(tmp_path, 6) as folder:
            yield folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Ext4Disk]:
    with mounted_ext4(tmp_path) as made:
        yield made


def visit(number: int, hours_ago: float = 0.0) -> VisitFacts:
    at = time.time_ns() - round(hours_ago * HOUR_NS)
    return VisitFacts(f"00000000-0000-4000-8000-{number:012d}", "hall", "person", at, at + 10**9)


def opened(folder: Path, **limits: float) -> Archive:
    return Archive(folder, **{"keep_days": 7, "max_mib": 64, **limits})


def save_all(archive: Archive, *hours_ago: float) -> None:
    for number, hours in enumerate(hours_ago, 1):
        save(archive, visit(number, hours))


def save(archive: Archive, facts: VisitFacts) -> None:
    archive.save_picture(facts, (b"w" * PICTURE, b"c"), 0.9, {"value": 1.0})
    archive.follow(facts)


def saved(folder: Path, *hours_ago: float, is_killed: bool = False) -> None:
    """Let a recorder save visits: number 1, 2, ...; if it is killed, it leaves its log and shared memory."""
    if not is_killed:
        with opened(folder) as archive:
            save_all(archive, *hours_ago)
        return
    child = os.fork()
    if child == 0:
        try:
            archive = opened(folder)
            save_all(archive, *hours_ago)
            (archive.files / f"{visit(9).visit_id}-18f.mp4.part").write_bytes(b"half" * KIB)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def kept(folder: Path) -> list[int]:
    """Return the numbers of the visits in the archive, after checking that each has its files."""
    with closing(sqlite3.connect(folder / "evidence.db")) as connection:
        rows = connection.execute("SELECT visit_id, picture, crop FROM visit ORDER BY seq")
        found = rows.fetchall()
    named = {name for row in found for name in row[1:]}
    assert {file.name for file in (folder / "files").iterdir()} == named
    return [int(row[0][-12:]) for row in found]


def removed(reason: str) -> float:
    return float(metrics.EVIDENCE_REMOVED.labels(reason)._value.get())


def errors(camera: str) -> float:
    return float(metrics.EVIDENCE_ERRORS.labels(camera, "disk")._value.get())


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize(
    ("limits", "reason", "left"),
    [({"max_mib": 0.5}, "size", [3, 4]), ({"keep_days": 1}, "age", [3, 4])],
)
def test_start_on_a_full_disk_removes_what_is_beyond_the_limits(
    small_disk: Path, limits: dict[str, float], reason: str, left: list[int], is_killed: bool
) -> None:
    """It ended before it had removed anything, each time, so that nothing ever freed its own space."""
    folder = small_disk / "evidence"
    saved(folder, 50, 40, 3, 2, is_killed=is_killed)
    fill(small_disk)
    before = removed(reason)
    with opened(folder, **limits) as archive:
        assert kept(folder) == left
        archive.retain()
        archive.keep_watch()
        assert kept(folder) == left
    assert removed(reason) - before == 2


@pytest.mark.parametrize("is_killed", [False, True])
def test_start_on_a_disk_that_others_have_filled_removes_nothing(
    small_disk: Path, is_killed: bool
) -> None:
    folder = small_disk / "evidence"
    saved(folder, 3, 2, is_killed=is_killed)
    (folder / "files" / f"{visit(9).visit_id}-18f.mp4.part").unlink(missing_ok=True)
    ballast = fill(small_disk)
    for _ in range(2):
        with pytest.raises((OSError, sqlite3.Error)) as caught:
            opened(folder)
        assert is_full(caught.value, folder)
        assert may_pass(caught.value)
    ballast.unlink()
    with opened(folder) as archive:
        assert kept(folder) == [1, 2]
        save(archive, visit(3))
    assert kept(folder) == [1, 2, 3]


def test_unfinished_files_of_a_killed_recorder_make_room(small_disk: Path) -> None:
    """Such a clip may have taken a quarter of `max_mib`."""
    folder = small_disk / "evidence"
    saved(folder, 3, is_killed=True)
    (folder / "files" / f"{visit(9).visit_id}-18f.mp4.part").write_bytes(b"h" * 500 * KIB)
    fill(small_disk)
    with opened(folder):
        assert kept(folder) == [1]


def test_limits_apply_on_a_disk_that_fills_up(small_disk: Path) -> None:
    """SQLite needs space to delete a row, and the row went first: nothing was removed."""
    folder = small_disk / "evidence"
    saved(folder)
    with opened(folder) as archive:
        save_all(archive, 50, 40, 3, 2)
        archive._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        fill(small_disk)
        with pytest.raises((OSError, sqlite3.Error)):  # as long as nothing is beyond the limits
            save_row(archive)
        archive._retention.max_bytes = 500 * KIB
        archive.retain()
        archive.keep_watch()
        assert kept(folder) == [3, 4]


def save_row(archive: Archive) -> None:
    for number in range(1000):
        archive.begin_blind("hall", number)


def configured(folder: Path) -> Config:
    return Config.model_validate(
        {
            "cameras": {"hall": {"source": "synthetic"}, "door": {"source": "synthetic"}},
            "run_dir": str(folder / "run"),
            "state_dir": str(folder / "disk" / "state"),
            "evidence": {},
        }
    )


def paused(function: Callable[..., Any]) -> Callable[..., Any]:
    def called(*values: Any, **named: Any) -> Any:
        with _PAUSE:
            return function(*values, **named)

    return called


@contextlib.contextmanager
def waiting(config: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Open the archive in a thread, but not during ``_PAUSE``; what it returns or raises is appended to the list."""
    monkeypatch.setattr(opening, "_RETRY_S", 0.05)
    for name in ("folder_on_any_disk", "Archive"):
        monkeypatch.setattr(opening, name, paused(getattr(opening, name)))
    stop, result = threading.Event(), list[Any]()

    def work() -> None:
        try:
            result.append(opening.open_archive(config, stop))
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield result
    finally:
        stop.set()
        thread.join()
        for archive in result:
            if isinstance(archive, Archive):
                archive.close()


@pytest.mark.parametrize("fault", ["full", "read-only", "failing"])
@pytest.mark.parametrize("is_first", [False, True])
def test_an_archive_is_opened_when_its_disk_can_be_used_again(
    tmp_path: Path,
    disk: Ext4Disk,
    fault: str,
    is_first: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The recorder ended each time, with a traceback or the advice to check its configuration."""
    caplog.set_level("INFO", "tridetr")
    config = configured(tmp_path)
    folder = config.evidence_dir
    assert folder is not None
    if not is_first:
        saved(folder, 3)
    if fault == "full":
        ballast = fill(disk.folder)
    elif fault == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", disk.folder], check=True)
    else:
        disk.fail()
    before = [errors(camera) for camera in config.cameras]
    with waiting(config, monkeypatch) as result:
        wait_for(lambda: result or errors("hall") - before[0] >= 3)
        assert not result
        assert all(errors(c) - b >= 2 for c, b in zip(config.cameras, before, strict=True))
        (line,) = [m for m in caplog.messages if "cannot be saved" in m]
        remedy = {
            "full": f"free disk space for {folder}, or lower",
            "read-only": "mount the file system writable",
            "failing": "check the disk",
        }[fault]
        assert remedy in line
        assert "detection and events continue" in line
        if fault == "full":
            ballast.unlink()
        elif fault == "read-only":
            subprocess.run(["mount", "-o", "remount,rw", disk.folder], check=True)
        else:
            wait_for(lambda: mounted_again(disk))  # nothing is held open for longer than an attempt
        (archive,) = wait_for(lambda: result)
        assert isinstance(archive, Archive), archive
        save(archive, visit(2))
        assert kept(folder) == ([2] if is_first else [1, 2])


def mounted_again(disk: Ext4Disk) -> bool:
    try:
        with _PAUSE:  # an archive in the folder below the disk would be one, too
            disk.mount_again()
    except subprocess.CalledProcessError:
        return False
    return True


def test_a_stop_ends_the_wait_for_a_disk(
    tmp_path: Path, disk: Ext4Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path)
    disk.fail()
    before = errors("hall")
    with waiting(config, monkeypatch) as result:
        wait_for(lambda: errors("hall") > before)
    assert result == [None]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.ENOTDIR])
def test_a_folder_that_cannot_be_used_for_another_reason_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code), "a file")

    monkeypatch.setattr("tridetr.recorder.archive.open_database", refuse)
    config = configured(tmp_path)
    shutil.rmtree(tmp_path / "disk", ignore_errors=True)
    with waiting(config, monkeypatch) as result:
        (error,) = wait_for(lambda: result)
    assert isinstance(error, TridetrError)
    assert "cannot be used" in str(error)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("small_disk", ["tmpfs"], indirect=True)
def test_a_recorder_that_starts_on_a_full_disk_saves_when_there_is_space(
    tmp_path: Path, small_disk: Path
) -> None:
    with recording(tmp_path / "node", path=str(small_disk / "evidence")) as (recorder, stage):
        stage.show(60, "visit-before", 1.5)
        stage.show(0, "", 2.5)
        recorder.closed()
        recorder.kill()
        ballast = fill(small_disk)
        started(recorder)
        stage.show(60, "visit-full", 1.0)
        stage.show(0, "", 1.0)
        assert recorder.process is not None
        assert recorder.process.poll() is None, recorder.log()
        assert recorder.log().count("cannot be saved") == 1
        assert "Traceback" not in recorder.log()
        ballast.unlink()
        wait_for(lambda: recorder.log().count("saving pictures and clips") == 2, 30)
        stage.show(60, "visit-after", 1.5)
        stage.show(0, "", 2.5)
        assert [row["visit_id"] for row in recorder.closed(2)] == ["visit-before", "visit-after"]
        recorder.stop()


def started(recorder: Recorder) -> None:
    recorder.launch()
    wait_for(lambda: "cannot be saved" in recorder.log(), 30, "no word of the full disk")
