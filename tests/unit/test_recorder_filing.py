"""The recorder's threads: a disk that hangs, or cannot be written for longer than a visit is retried."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from support.waiting import wait_for
from tridetr.controller.payloads import FrameFacts
from tridetr.gateway.encode import Color
from tridetr.recorder import filing
from tridetr.recorder.archive import Archive, VisitFacts
from tridetr.recorder.camera_recorder import CameraWatcher, Run, Visit
from tridetr.recorder.clips import Span, StillsClip
from tridetr.recorder.visit_list import Wanted, find_visits
from tridetr.recorder.visit_picture import BestFrame, Planes
from tridetr.telemetry import metrics


class Watcher:
    """What the threads use of a camera's watcher."""

    camera = "hall"
    blind_since_unix_ns = None

    def __init__(self) -> None:
        self.visits: list[Visit] = []
        self.over: list[VisitFacts] = []


def visit(number: int, *, is_over: bool) -> Visit:
    pixels = Planes(64, 48, np.full((72, 64), 100, np.uint8), Color(True, "BT601"))
    facts = FrameFacts(number, number, number, 64, 48, "m:1", ())
    at = time.monotonic_ns(), time.time_ns()
    run = Run(*at, *at, BestFrame(1.0, 0.9, pixels, facts, (0, 0, 64, 48)))
    made = Visit("hall", f"00000000-0000-4000-8000-{number:012d}", "person", run, Span(0, 1))
    made.clip_done = True
    made.ended_s = time.monotonic() if is_over else None
    return made


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "evidence", keep_days=7, max_mib=64) as opened:
        yield opened


def errors() -> float:
    return float(metrics.EVIDENCE_ERRORS.labels("hall", "disk")._value.get())


def test_visits_during_a_hang_of_the_disk_do_not_accumulate(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each one kept its pixels until the disk answered, and nothing was logged or counted."""
    caplog.set_level(logging.INFO, "tridetr")
    answers, hangs = threading.Event(), threading.Event()
    real = os.statvfs

    def hang(path: Path) -> os.statvfs_result:
        hangs.set()
        assert answers.wait(30)
        return real(path)

    monkeypatch.setattr(os, "statvfs", hang)
    for name in ("_HUNG_S", "_IDLE_S", "_TURN_S"):
        monkeypatch.setattr(filing, name, 0.01)
    watcher = Watcher()
    with filing.Filing(archive, [cast(CameraWatcher, watcher)], 1.0) as writing:
        before = errors()
        first, still_open = visit(1, is_over=True), visit(2, is_over=False)
        watcher.visits += [first, still_open]
        writing.start()
        try:
            assert hangs.wait(30)
            late = visit(3, is_over=True)
            late.clip, late.clip_done = StillsClip([], late.span, Path, 1), False
            watcher.visits.append(late)

            def is_given_up() -> bool:
                writing.check()
                return all(held is None for held in (first.run.best, late.run.best, late.clip))

            wait_for(is_given_up)
            writing.check()
            assert errors() - before == 3  # two pictures and a clip
            assert still_open.run.best is not None
            assert caplog.text.count("does not answer") == 1
        finally:
            answers.set()
        wait_for(lambda: watcher.visits == [still_open])
        still_open.ended_s = time.monotonic()
        wait_for(lambda: not watcher.visits)

        def has_recovered() -> bool:
            writing.check()
            return "answers again" in caplog.text

        wait_for(has_recovered)


def test_the_removal_of_many_old_visits_is_not_taken_for_a_hang(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Visits that ended meanwhile lost their pictures and clips."""
    for number in (1, 2, 3):
        facts = visit(number, is_over=True).facts
        archive.save_picture(facts, (b"whole", b"crop"), 0.9, {"value": 1.0})
        archive.follow(facts)
    now_s = 0.0
    writing = filing.Filing(archive, [cast(CameraWatcher, Watcher())], 1.0)
    monkeypatch.setattr(filing, "time", SimpleNamespace(monotonic=lambda: now_s))
    monkeypatch.setattr(archive._retention, "max_bytes", -1)

    def remove(*_: object) -> None:
        nonlocal now_s
        now_s += 20
        writing.check()

    monkeypatch.setattr(archive._files, "remove", remove)
    writing._maintain()
    assert now_s == 60
    assert not find_visits(archive.files.parent, Wanted(), 5)
    assert "does not answer" not in caplog.text


def test_the_completion_of_a_large_clip_is_not_taken_for_a_hang(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a slow memory card; other visits that had ended lost their pictures and clips."""
    now_s = 0.0
    writing = filing.Filing(archive, [cast(CameraWatcher, Watcher())], 1.0)
    monkeypatch.setattr(filing, "time", SimpleNamespace(monotonic=lambda: now_s))

    def step(result: Any) -> Any:
        nonlocal now_s
        now_s += 20
        writing.check()
        return result

    monkeypatch.setattr(filing, "clip_is_whole", lambda *_: step(True))
    monkeypatch.setattr(archive, "save_clip", lambda *_: step(None))
    made = visit(1, is_over=True)
    clip = SimpleNamespace(
        path=archive.files / "part", times=(1, 2), encoded=False, finish=lambda: step(9)
    )
    writing._step_begins(made)
    writing._complete_clip(made, cast(StillsClip, clip))
    assert now_s == 60
    assert "does not answer" not in caplog.text


def test_upkeep_makes_room_although_the_timeline_cannot_be_saved(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing was removed from a full disk, and that was logged twice a minute."""
    facts = visit(1, is_over=True).facts
    archive.save_picture(facts, (b"whole", b"crop"), 0.9, {"value": 1.0})
    archive.follow(facts)
    writing = filing.Filing(archive, [cast(CameraWatcher, Watcher())], 1.0)
    faults = [sqlite3.OperationalError("database or disk is full")] * 3

    def keep_watch() -> None:
        if faults:
            raise faults.pop()

    monkeypatch.setattr(archive, "keep_watch", keep_watch)
    monkeypatch.setattr(archive._retention, "max_bytes", -1)
    for _ in range(3):
        writing._maintain()
    (line,) = caplog.messages
    assert f"free disk space for {archive.files.parent}" in line
    assert not find_visits(archive.files.parent, Wanted(), 5)
    for faulty in (False, True):
        faults += [sqlite3.OperationalError("database or disk is full")] * faulty
        writing._maintain()
    assert len(caplog.messages) == 2


def test_a_clip_that_can_be_neither_written_nor_removed_is_given_up(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that became read-only during a clip ended the recorder."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refuse)
    made = visit(1, is_over=False)
    clip = SimpleNamespace(path=archive.files / "part", step=refuse, close=lambda: None)
    made.clip, made.clip_done = cast(StillsClip, clip), False
    before = errors()
    filing.Filing(archive, [cast(CameraWatcher, Watcher())], 1.0)._step_clip(made)
    assert made.clip_done
    assert errors() - before == 1


def test_row_of_a_visit_is_closed_however_late(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of visits that could not be completed within a minute stayed open, and were never removed."""
    watcher = Watcher()
    writing = filing.Filing(archive, [cast(CameraWatcher, watcher)], 1.0)
    lasting = visit(1, is_over=False)
    watcher.visits.append(lasting)
    writing._write()
    (row,) = find_visits(archive.files.parent, Wanted(), 5)
    assert row.is_open

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
            if query.startswith("UPDATE visit SET ended"):
                raise sqlite3.OperationalError("database or disk is full")
            return real.execute(query, *values)

    for name in ("_GIVE_UP_S", "_RETRY_S"):
        monkeypatch.setattr(filing, name, 0.0)
    real = archive._connection
    monkeypatch.setattr(archive, "_connection", Full())
    lasting.ended_s = time.monotonic()
    writing._write()
    writing._write()
    assert not watcher.visits
    monkeypatch.setattr(archive, "_connection", real)
    writing._write()
    (row,) = find_visits(archive.files.parent, Wanted(), 5)
    assert row.is_complete
    assert not watcher.over


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free disk space for {}, or lower"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "free disk space for {}, or lower"),
        (sqlite3.OperationalError("database or disk is full"), "free disk space for {}, or lower"),
        (OSError(errno.EROFS, "Read-only file system"), "mount the file system writable"),
        (OSError(errno.EIO, "Input/output error"), "check the disk"),
        (sqlite3.OperationalError("disk I/O error"), "check the disk"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "mount the file system"),
        (sqlite3.OperationalError("database is locked"), "that has locked the database in {}"),
        (OSError(errno.EACCES, "Permission denied"), "permissions"),
    ],
)
def test_the_remedy_fits_the_fault(
    archive: Archive, caplog: pytest.LogCaptureFixture, error: Exception, remedy: str
) -> None:
    """All faults of the disk had the advice to free space."""
    writing = filing.Filing(archive, [], 1.0)
    writing._report_fault(visit(1, is_over=False), error)
    (line,) = caplog.messages
    assert remedy.format(archive.files.parent) in line
    assert "detection and events continue" in line
    assert ("free disk space" in line) == remedy.startswith("free")


def test_a_clip_that_was_not_written_completely_may_have_had_no_space(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage(archive.files)._replace(free=0)
    monkeypatch.setattr("tridetr.recorder.disk_faults.shutil.disk_usage", lambda _: usage)
    error = OSError(errno.EIO, "the clip was not written completely")
    filing.Filing(archive, [], 1.0)._report_fault(visit(1, is_over=False), error)
    assert "free disk space" in caplog.text
