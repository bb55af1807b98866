"""The recorder's files and rows: every row has its files, and old or excess visits are removed."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tridetr.config import Config
from tridetr.doctor.configuration import check_configuration
from tridetr.errors import TridetrError
from tridetr.gateway.visit_routes import describe
from tridetr.recorder.archive import Archive, VisitFacts
from tridetr.recorder.visit_list import Wanted, find_visits
from tridetr.supervisor.disk_checks import check_disks
from tridetr.telemetry import metrics

HOUR_NS = 3600 * 10**9
KIB = 1024
ID = "00000000-0000-4000-8000-00000000000"  # of a visit, without its last digit


def visit(number: int, hours_ago: float = 0.0) -> VisitFacts:
    at = time.time_ns() - round(hours_ago * HOUR_NS)
    return VisitFacts(f"{ID}{number}", "hall", "person", at, at + 10**9)


def keep(archive: Archive, facts: VisitFacts, size: int = 10 * KIB) -> None:
    archive.save_picture(facts, (b"w" * (size - KIB), b"c" * KIB), 0.9, {"value": 1.0})
    archive.follow(facts)


def rows(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "evidence.db")) as connection:
        found = connection.execute("SELECT visit_id FROM visit ORDER BY seq").fetchall()
    return [row[0].replace(ID, "visit-") for row in found]


def opened(folder: Path, **limits: float) -> Archive:
    return Archive(folder, **{"keep_days": 7, "max_mib": 64, **limits})


def removed(reason: str) -> float:
    return float(metrics.EVIDENCE_REMOVED.labels(reason)._value.get())


def test_better_picture_replaces_the_previous_one(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        for data in (b"first", b"second"):
            archive.save_picture(visit(1), (data, b"crop"), 0.9, {"value": 1.0})
        assert {f.read_bytes() for f in archive.files.iterdir()} == {b"second", b"crop"}
    assert rows(tmp_path) == ["visit-1"]


@pytest.mark.parametrize("facts", ["x'22ff'", "'[]'", "'#}'", '\'{"value": "high"}\''])
def test_a_damaged_row_hides_no_other_visit(tmp_path: Path, facts: str) -> None:
    with opened(tmp_path) as archive:
        for number in (1, 2):
            archive.save_picture(visit(number), (b"w", b"c"), 0.9, {"value": 1.0})
    with closing(sqlite3.connect(tmp_path / "evidence.db")) as connection, connection:
        connection.execute(
            f"UPDATE visit SET picture_facts = {facts}, clip = 'a.mp4', clip_facts = {facts}, "
            "class = CAST(x'63ff' AS TEXT) WHERE seq = 1"
        )
    found = [describe(row) for row in find_visits(tmp_path, Wanted(), 10)]
    assert [row["visit_id"] for row in found] == [f"{ID}2", f"{ID}1"]
    assert (found[1]["picture"], found[1]["clip"]) == (None, None)
    with opened(tmp_path) as archive:
        assert {name: kept.picture_value for name, kept in archive.open_visits().items()} == {
            f"{ID}1": 0.0,
            f"{ID}2": 1.0,
        }


def test_files_are_private(tmp_path: Path) -> None:
    with opened(tmp_path / "evidence") as archive:
        keep(archive, visit(1))
        modes = {f.stat().st_mode & 0o777 for f in archive.files.iterdir()}
    assert modes == {0o600}
    assert (tmp_path / "evidence").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "evidence" / "evidence.db").stat().st_mode & 0o777 == 0o600


def test_retention_by_days_removes_the_old(tmp_path: Path) -> None:
    before = removed("age")
    with opened(tmp_path, keep_days=1) as archive:
        for number, hours in enumerate((30.0, 25.0, 23.0, 1.0)):
            keep(archive, visit(number, hours))
        archive.retain()
        assert rows(tmp_path) == ["visit-2", "visit-3"]
        assert len(list(archive.files.iterdir())) == 4
    assert removed("age") == before + 2


class Clock:
    """The archive's clock, which can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_ns = self.passed_ns = 0
        real, boot = time.time_ns, time.clock_gettime_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + self.ahead_ns + self.passed_ns)
        monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: boot(clock) + self.passed_ns)


def test_wrong_clock_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is briefly ten years ahead must not make all visits too old."""
    clock = Clock(monkeypatch)
    with opened(tmp_path, keep_days=7) as archive:
        keep(archive, visit(1))
        for ahead_ns in (87_600 * HOUR_NS, 0):
            clock.ahead_ns = ahead_ns
            archive.keep_watch()
            archive.retain()
        assert rows(tmp_path) == ["visit-1"]
        clock.passed_ns += 23 * HOUR_NS
        keep(archive, visit(2, hours_ago=200))
        archive.retain()
        assert rows(tmp_path) == ["visit-1", "visit-2"]
        clock.passed_ns += 2 * HOUR_NS  # the clock has not been set for a day
        archive.retain()
        assert rows(tmp_path) == ["visit-1"]


def test_a_suspended_machine_removes_old_visits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLOCK_MONOTONIC stands still during that time, but the clock was not set."""
    clock = Clock(monkeypatch)
    with opened(tmp_path, keep_days=7) as archive:
        keep(archive, visit(1))
        clock.passed_ns += 24 * 8 * HOUR_NS
        archive.keep_watch()
        archive.retain()
        assert rows(tmp_path) == []


@pytest.mark.parametrize("hours", [87_600, -87_600])
def test_start_with_a_changed_clock_removes_nothing_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    clock = Clock(monkeypatch)
    with opened(tmp_path, keep_days=7) as archive:
        keep(archive, visit(1, hours_ago=0 if hours > 0 else 200))
        archive.keep_watch()
    clock.ahead_ns = hours * HOUR_NS
    with opened(tmp_path, keep_days=7) as archive:
        archive.retain()
        assert rows(tmp_path) == ["visit-1"]
    clock.ahead_ns = 0
    with opened(tmp_path, keep_days=7) as archive:
        archive.keep_watch()
    with opened(tmp_path, keep_days=7) as archive:
        archive.retain()
        assert rows(tmp_path) == ["visit-1"]
        clock.passed_ns += 25 * HOUR_NS
        archive.keep_watch()
    with opened(tmp_path, keep_days=7) as archive:
        archive.retain()
        assert rows(tmp_path) == (["visit-1"] if hours > 0 else [])


def test_wrong_clock_is_not_trusted_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is ten years ahead during restarts must not make all visits too old."""
    clock = Clock(monkeypatch)
    with opened(tmp_path, keep_days=7) as archive:
        keep(archive, visit(1))
        archive.keep_watch()
        clock.ahead_ns = 87_600 * HOUR_NS
        archive.keep_watch()
        archive.retain()
    for _ in range(3):
        with opened(tmp_path, keep_days=7) as archive:
            archive.keep_watch()
            archive.retain()
            clock.passed_ns += 7 * HOUR_NS
            archive.keep_watch()
    assert rows(tmp_path) == ["visit-1"]
    clock.ahead_ns = 0
    with opened(tmp_path, keep_days=7) as archive:
        archive.retain()
        assert rows(tmp_path) == ["visit-1"]
        clock.passed_ns += 24 * 8 * HOUR_NS
        archive.retain()
    assert rows(tmp_path) == []


def test_retention_by_size_removes_the_oldest_first(tmp_path: Path) -> None:
    before = removed("size")
    with opened(tmp_path, max_mib=50 * KIB / 2**20) as archive:
        for number in (4, 1, 3, 2, 0):
            keep(archive, visit(number, hours_ago=number))
        archive.retain()
        assert rows(tmp_path) == ["visit-4", "visit-1", "visit-3", "visit-2", "visit-0"]
        keep(archive, visit(9))
        archive.retain()
        assert rows(tmp_path) == ["visit-1", "visit-3", "visit-2", "visit-0", "visit-9"]
        held = sum(f.stat().st_size for f in archive.files.iterdir())
        assert held <= 50 * KIB
    assert removed("size") == before + 1


@pytest.mark.parametrize(("before_h", "now_h"), [(-10_000, 0), (0, 10_000)])
def test_retention_by_size_keeps_the_newest_whatever_the_clock_was(
    tmp_path: Path, before_h: float, now_h: float
) -> None:
    """Each new visit was removed at once, for as long as the clock had been ahead."""
    with opened(tmp_path, keep_days=1000, max_mib=30 * KIB / 2**20) as archive:
        for number in range(3):
            keep(archive, visit(number, hours_ago=before_h))
        for number in range(3, 5):
            keep(archive, visit(number, hours_ago=now_h))
        archive.retain()
    assert rows(tmp_path) == ["visit-2", "visit-3", "visit-4"]


def test_open_visit_is_kept_beyond_the_limits(tmp_path: Path) -> None:
    with opened(tmp_path, max_mib=KIB / 2**20) as archive:
        archive.save_picture(visit(1), (b"w" * 10 * KIB, b"c"), 0.9, {"value": 1.0})
        keep(archive, visit(2))
        archive.retain()
    assert rows(tmp_path) == ["visit-1"]


def test_files_without_a_row_and_rows_without_files_are_removed(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        keep(archive, visit(1))
        keep(archive, visit(2))
        (archive.files / f"{ID}3-18f.mp4.part").write_bytes(b"half")
        (archive.files / f"{ID}3-18f.jpg").write_bytes(b"unnamed")
        for file in archive.files.glob(f"{ID}1-*"):
            file.unlink()
    with opened(tmp_path) as archive:
        assert rows(tmp_path) == ["visit-2"]
        assert all(f.name.startswith(f"{ID}2-") for f in archive.files.iterdir())


def test_two_recorders_do_not_share_a_folder(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(TridetrError, match="another recorder"):
        opened(tmp_path)


@pytest.mark.parametrize("damage", [b"noise" * 1000, b""])
def test_a_damaged_database_is_moved_aside_with_its_files(tmp_path: Path, damage: bytes) -> None:
    with opened(tmp_path) as archive:
        keep(archive, visit(1))
    (tmp_path / "evidence.db").write_bytes(damage)
    with opened(tmp_path) as archive:
        keep(archive, visit(2))
        assert rows(tmp_path) == ["visit-2"]
    (aside,) = tmp_path.glob("broken-*")
    assert len(list((aside / "files").iterdir())) == 2


def test_databases_moved_aside_are_removed_by_days_and_by_size(tmp_path: Path) -> None:
    def breaks(hours_ago: float) -> Path:
        folder = tmp_path / f"broken-{visit(0, hours_ago).started_unix_ns}"
        (folder / "files").mkdir(parents=True)
        (folder / "files" / f"{ID}1-18f.jpg").write_bytes(b"w" * 40 * KIB)
        return folder

    with opened(tmp_path, keep_days=1, max_mib=100 * KIB / 2**20) as archive:
        old, *others = (breaks(hours) for hours in (25.0, 3.0, 2.0, 1.0))
        (tmp_path / "broken-by-hand").mkdir()
        archive.retain()
        assert not old.exists()
        assert [folder.exists() for folder in others] == [False, True, True]
        assert (tmp_path / "broken-by-hand").is_dir()


def test_what_was_just_moved_aside_is_kept_for_a_day_though_it_is_large(tmp_path: Path) -> None:
    """The pictures filled the limit and the database came on top: the first upkeep removed what was to be saved."""
    limit = 10 * KIB / 2**20
    with opened(tmp_path, keep_days=7, max_mib=limit) as archive:
        keep(archive, visit(1))
    (tmp_path / "evidence.db").write_bytes(b"damaged" * 5000)
    with opened(tmp_path, keep_days=7, max_mib=limit) as archive:
        archive.retain()
        (aside,) = tmp_path.glob("broken-*")
        aside.rename(tmp_path / f"broken-{visit(0, 25.0).started_unix_ns}")
        archive.retain()
        assert list(tmp_path.glob("broken-*")) == []


def test_a_database_of_a_later_version_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "evidence.db")) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(TridetrError, match="later version"):
        opened(tmp_path)


@pytest.mark.parametrize("what", ["evidence.db", "files", "."])
def test_an_archive_that_is_removed_while_in_use_is_noticed(tmp_path: Path, what: str) -> None:
    """SQLite goes on writing to a file that has no name any more: nothing fails, and every row is lost."""
    folder = tmp_path / "evidence"
    with opened(folder) as archive:
        keep(archive, visit(1))
        archive.check_present()
        removed = folder / what
        removed.rename(tmp_path / "removed")
        with pytest.raises(TridetrError, match="removed or replaced while in use"):
            archive.check_present()
    with opened(folder) as archive:
        keep(archive, visit(2))
        archive.check_present()
    assert rows(folder)[-1] == "visit-2"


def test_pictures_that_others_can_read_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On a USB stick with FAT, for example, whose files have the mode that it was mounted with."""
    (tmp_path / "evidence" / "files").mkdir(mode=0o755, parents=True)
    with Archive(tmp_path / "evidence", keep_days=1, max_mib=1):
        assert "other users of this machine can read the pictures" in caplog.text


def test_files_of_the_user_are_neither_removed_nor_moved(tmp_path: Path) -> None:
    """The folder `files` of a Nextcloud user was moved aside and removed; later ones lost each file without a row."""
    folder, photos = tmp_path / "evidence", tmp_path / "photos"
    photos.mkdir()
    kept = [photos / "IMG-20260101.jpg"]
    kept[0].write_bytes(b"photo")
    with opened(folder) as archive:
        keep(archive, visit(1))
        kept += [archive.files / "IMG-20260101.jpg", folder / "evidence.db.backup"]
        for file in kept[1:]:
            file.write_bytes(b"photo")
        (archive.files / f"{ID}2-18f.jpg").symlink_to(kept[0])
        (archive.files / "album").mkdir()
    opened(folder).close()
    (folder / "evidence.db").write_bytes(b"")
    with opened(folder, keep_days=1) as archive:
        (aside,) = folder.glob("broken-*")
        assert len(list((aside / "files").iterdir())) == 2
        assert {f.name for f in archive.files.iterdir()} == {
            "IMG-20260101.jpg",
            "album",
            f"{ID}2-18f.jpg",
        }
        old = aside.rename(folder / f"broken-{visit(0, 25.0).started_unix_ns}")
        kept.append(old / "files" / "note.txt")
        kept[-1].write_bytes(b"photo")
        (folder / f"broken-{visit(0, 26.0).started_unix_ns}").symlink_to(photos)
        archive.retain()
        assert [f.name for f in old.rglob("*")] == ["files", "note.txt"]
    assert {file.read_bytes() for file in kept} == {b"photo"}


@pytest.mark.parametrize("is_link", [False, True])
def test_a_folder_with_files_of_another_program_is_refused(tmp_path: Path, is_link: bool) -> None:
    files = tmp_path / "alice" / "files"
    files.parent.mkdir()
    if is_link:
        (tmp_path / "photos").mkdir()
        files.symlink_to(tmp_path / "photos")
    else:
        files.mkdir()
    (files / "IMG-20260101.jpg").write_bytes(b"photo")
    with pytest.raises(TridetrError, match=r"cannot be used: .*evidence\.path to an empty folder"):
        opened(files.parent)
    assert list(files.parent.rglob("*")) == [files, *([] if is_link else files.iterdir())]
    config = Config.model_validate(
        {"cameras": {"hall": {"source": "synthetic"}}, "evidence": {"path": files.parent}}
    )
    assert ("evidence.path", "fault") in {
        (finding.subject, finding.level) for finding in check_configuration(config)
    }
    config = config.model_copy(update={"state_dir": tmp_path / "state", "run_dir": tmp_path})
    with pytest.raises(TridetrError, match="cannot be used"):
        check_disks(config, ())
