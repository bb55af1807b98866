"""The store on a real disk: killed, full, locked and at its limits."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from support.mosquitto import listening, running_mosquitto
from support.sentry import EMPTY, PERSON, running_controller
from support.small_disks import fill, mounted_tmpfs
from support.state_database import event_row, run_sql
from support.waiting import wait_for
from tridetr.controller.database import Database, NewerDatabaseError, refuse_newer
from tridetr.controller.history import DATABASE, FOLDER_LOCK, HISTORY_LIMIT, read_history
from tridetr.controller.state_files import StoreError
from tridetr.controller.store import Store
from tridetr.controller.stored_rows import NewRow
from tridetr.errors import TridetrError
from tridetr.paths import private_folder
from tridetr.telemetry import metrics


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB; data is briefly stored twice, in the write-ahead log and in the file."""
    with mounted_tmpfs(tmp_path, 1) as folder:
        yield folder


def remount(disk: Path, access: str) -> None:
    """Make a disk read-only (`ro`) or writable again (`rw`)."""
    subprocess.run(["mount", "-o", f"remount,{access}", str(disk)], check=True)


def test_commits_survive_the_death_of_the_process(tmp_path: Path) -> None:
    store = Store(tmp_path, outbox_limit=100)
    store.commit("hall", '{"a": 1}', [event_row(1), NewRow(2, "camera_back", "{}")])
    store.commit("door", '{"b": 2}', [event_row(3)])
    store.confirm("visit1:arrived")
    assert store._lock
    store._lock.close()  # the process is dead: nothing is closed
    again = Store(tmp_path, outbox_limit=100)
    assert {name: saved.record for name, saved in again.cameras.items()} == {
        "hall": '{"a": 1}',
        "door": '{"b": 2}',
    }
    assert [(row.seq, row.event_id, row.camera) for row in again.outbox.values()] == [
        (3, "visit3:arrived", "door")
    ]
    assert again.last_seq == 3
    assert [row.kind for row in read_history(tmp_path)] == [
        "person_arrived", "camera_back", "person_arrived",
    ]  # fmt: skip
    assert [row.seq for row in read_history(tmp_path, camera="hall", after=1)] == [2]
    again.close()


def test_numbers_are_never_reused(tmp_path: Path) -> None:
    store = Store(tmp_path, outbox_limit=100)
    store.commit("hall", "{}", [event_row(1), event_row(2)])
    store.confirm("visit1:arrived")
    store.confirm("visit2:arrived")
    store.close()
    store = Store(tmp_path, outbox_limit=100)
    assert store.commit("hall", "{}", [event_row(3)])[0].seq == 3
    store.close()


def test_files_are_private(tmp_path: Path) -> None:
    store = Store(tmp_path / "state", outbox_limit=100)
    store.commit("hall", "{}", [event_row(1)])
    for path in [tmp_path / "state", *(tmp_path / "state").iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    store.close()


def test_only_one_controller_uses_a_folder(tmp_path: Path) -> None:
    store = Store(tmp_path, outbox_limit=100)
    with pytest.raises(StoreError, match="another controller"):
        Store(tmp_path, outbox_limit=100)
    store.close()
    Store(tmp_path, outbox_limit=100).close()


def test_the_outbox_drops_the_oldest_and_counts(tmp_path: Path) -> None:
    before = metrics.OUTBOX_DROPPED._value.get()
    store = Store(tmp_path, outbox_limit=100)
    for number in range(130):
        store.commit("hall", "{}", [event_row(number)])
    kept = [f"visit{number}:arrived" for number in range(30, 130)]
    assert list(store.outbox) == kept
    assert metrics.OUTBOX_DROPPED._value.get() - before == 30
    store.close()
    again = Store(tmp_path, outbox_limit=100)
    assert list(again.outbox) == kept
    again.close()


def test_the_history_is_bounded(tmp_path: Path) -> None:
    store = Store(tmp_path, outbox_limit=100)
    for number in range(0, HISTORY_LIMIT + 300, 50):
        store.commit("hall", "{}", [NewRow(number, "camera_back", "{}") for _ in range(50)])
    rows = read_history(tmp_path, limit=10_000)
    assert len(rows) == HISTORY_LIMIT
    assert rows[0].seq == store.last_seq
    store.close()


def test_controller_starts_with_a_read_only_disk(tiny_disk: Path) -> None:
    """A worn memory card becomes read-only: the controller must not end up in a crash loop."""
    folder = tiny_disk / "state"
    store = Store(folder, outbox_limit=1000)
    store.commit("hall", '"before"', [event_row(0)])
    store.close()
    remount(tiny_disk, "ro")
    try:
        prepared = private_folder(folder, "state_dir", may_be_read_only=True)
        with pytest.raises(TridetrError, match="read-only file system"):
            private_folder(folder, "state_dir")
        store = Store(prepared, outbox_limit=1000)
        store.commit("hall", '"meanwhile"', [event_row(1)])
        assert "visit1:arrived" in store.outbox
        assert store.fault
    finally:
        remount(tiny_disk, "rw")
    assert store.flush()
    store.close()
    again = Store(folder, outbox_limit=1000)
    assert [row.event_id for row in again.outbox.values()] == ["visit0:arrived", "visit1:arrived"]
    assert again.cameras["hall"].record == '"meanwhile"'
    again.close()


def check_all_is_saved(
    store: Store, folder: Path, *, waiting: list[int], notices: list[int]
) -> None:
    """Check a store whose disk can be written again; event n, the last one of which waits, has number n + 1."""
    events = [f"visit{number}:arrived" for number in waiting]
    assert store.flush()
    assert (list(store.outbox), list(store.found_late), store.fault) == (events, ["hall"], "")
    assert (store.is_loaded, store.has_lost_settings) == (True, False)
    assert store.settings == {"armed/hall": "{}"}
    store.close()
    again = Store(folder, outbox_limit=1000)
    assert [row.event_id for row in again.outbox.values()] == events
    assert [row.seq for row in again.outbox.values()] == [number + 1 for number in waiting]
    assert list(again.notices.waiting["phone"]) == [f"visit{number}:arrived" for number in notices]
    assert {name: saved.record for name, saved in again.cameras.items()} == {"hall": '"meanwhile"'}
    assert [row.seq for row in read_history(folder)] == [*range(waiting[-1] + 1, 0, -1)]
    again.close()


@pytest.mark.parametrize("is_killed", [False, True])
def test_events_on_a_disk_that_became_read_only_are_sent_after_a_restart(
    tiny_disk: Path, is_killed: bool
) -> None:
    """The database could be read, but an alarm in it waited until the disk could be written again."""
    folder = tiny_disk / "state"
    before = Store(folder, outbox_limit=1000)
    before.audience = lambda _row: ("phone",)
    before.commit("hall", '"before"', [event_row(0), event_row(1), event_row(2)])
    before.commit("gone", '"gone"', [])
    before.keep_setting("armed/hall", "{}")
    before.remember({"topic": ""})
    if is_killed:
        shutil.copytree(folder, tiny_disk / "killed")
    before.close()
    if is_killed:
        folder = tiny_disk / "killed"
    assert (folder / f"{DATABASE}-wal").exists() == is_killed
    remount(tiny_disk, "ro")
    try:
        for restart in range(2):  # what a restart forgets is repeated
            store = Store(folder, outbox_limit=1000)
            assert "Read-only" in store.fault
            assert list(store.outbox) == [f"visit{number}:arrived" for number in range(3)]
            assert list(store.notices.waiting["phone"]) == list(store.outbox)
            # What may have changed since is not used: visits and switches
            assert (store.cameras, store.retained) == ({}, {})
            assert not store.is_loaded, "a switch may have been set on the read-only disk"
            assert store.settings == {}
            store.audience = lambda _row: ("phone",)
            store.commit("hall", '"meanwhile"', [event_row(3), event_row(4)])
            store.confirm("visit0:arrived")
            store.confirm("visit3:arrived")
            store.notified("phone", "visit0:arrived")
            store.forget("gone")
            waiting = [f"visit{number}:arrived" for number in (1, 2, 4)]
            assert list(store.outbox) == waiting
            if restart == 0:
                store.close()
    finally:
        remount(tiny_disk, "rw")
    check_all_is_saved(store, folder, waiting=[1, 2, 4], notices=[1, 2, 3, 4])


@pytest.mark.parametrize("left_by", ["stop", "kill", "kill without -shm"])
def test_events_on_a_full_disk_are_sent_after_a_restart(
    tiny_disk: Path, left_by: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder can be locked, but without space SQLite opens no database: an alarm in it waited."""
    folder = tiny_disk / "state"
    before = Store(folder, outbox_limit=1000)
    before.audience = lambda _row: ("phone",)
    before.commit("hall", '"before"', [event_row(0), event_row(1)])
    reader = sqlite3.connect(folder / DATABASE)
    if left_by != "stop":
        # What follows is only in the write-ahead log, and "gone" only in the file
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM camera").fetchall()
    before.commit("gone", '"gone"', [event_row(2), event_row(3)])
    before.keep_setting("armed/hall", "{}")
    before.remember({"topic": ""})
    before.confirm("visit0:arrived")
    if left_by != "stop":
        shutil.copytree(folder, tiny_disk / "killed")
    reader.close()
    before.close()
    if left_by != "stop":
        shutil.rmtree(folder)
        (tiny_disk / "killed").rename(folder)
        if left_by == "kill without -shm":
            (folder / f"{DATABASE}-shm").unlink()
    path, log = folder / DATABASE, folder / f"{DATABASE}-wal"
    assert log.exists() == (left_by != "stop")
    stored = path.read_bytes(), log.read_bytes() if log.exists() else b""
    ballast = fill(tiny_disk)
    for restart in range(2):  # what a restart forgets is repeated
        caplog.clear()
        store = Store(folder, outbox_limit=1000)
        assert (path.read_bytes(), log.read_bytes() if log.exists() else b"") == stored
        assert "full" in store.fault
        assert "free some space" in caplog.text
        assert list(store.outbox) == [f"visit{number}:arrived" for number in (1, 2, 3)]
        assert list(store.notices.waiting["phone"]) == [f"visit{n}:arrived" for n in range(4)]
        # What may have changed since is not used: visits and switches
        assert (store.cameras, store.retained, store.settings) == ({}, {}, {})
        assert not store.is_loaded
        store.audience = lambda _row: ("phone",)
        store.commit("hall", '"meanwhile"', [event_row(4), event_row(5)])
        store.confirm("visit1:arrived")
        store.confirm("visit4:arrived")
        store.notified("phone", "visit1:arrived")
        store.forget("gone")
        waiting = [f"visit{number}:arrived" for number in (2, 3, 5)]
        assert not store.flush()
        assert list(store.outbox) == waiting
        assert (path.read_bytes(), log.read_bytes() if log.exists() else b"") == stored
        if restart == 0:
            store.close()
    ballast.unlink()
    check_all_is_saved(store, folder, waiting=[2, 3, 5], notices=[0, 2, 3, 4, 5])


def test_a_database_of_a_later_version_is_refused_on_a_full_disk(tiny_disk: Path) -> None:
    Store(tiny_disk / "state", outbox_limit=1000).close()
    run_sql("PRAGMA user_version=999")(tiny_disk / "state" / DATABASE)
    fill(tiny_disk)
    with pytest.raises(StoreError, match="later version"):
        Store(tiny_disk / "state", outbox_limit=1000)
    with pytest.raises(NewerDatabaseError):
        refuse_newer(tiny_disk / "state" / DATABASE)


@pytest.mark.parametrize("has_lock", [False, True])
def test_events_on_a_disk_without_room_for_files_are_sent(
    tiny_disk: Path, has_lock: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_disk / "state"
    store = Store(folder, outbox_limit=1000)
    store.commit("hall", "{}", [event_row(0)])
    store.close()
    if not has_lock:
        (folder / FOLDER_LOCK).unlink()
    remount(tiny_disk, "nr_inodes=20")
    (tiny_disk / "files").mkdir()
    with suppress(OSError):
        for number in range(100):
            (tiny_disk / "files" / str(number)).touch()
    store = Store(folder, outbox_limit=1000)
    assert list(store.outbox) == ["visit0:arrived"]
    assert not store.is_loaded
    assert "free some space" in caplog.text
    store.commit("hall", "{}", [event_row(1)])
    shutil.rmtree(tiny_disk / "files")
    assert store.flush()
    store.close()
    again = Store(folder, outbox_limit=1000)
    assert [(row.seq, row.event_id) for row in again.outbox.values()] == [
        (1, "visit0:arrived"), (2, "visit1:arrived"),
    ]  # fmt: skip
    again.close()


def test_a_broken_database_on_a_full_disk_is_replaced_when_there_is_space(tiny_disk: Path) -> None:
    folder = tiny_disk / "state"
    store = Store(folder, outbox_limit=1000)
    store.commit("hall", "{}", [event_row(0), event_row(1), event_row(2)])
    store.close()
    run_sql("ALTER TABLE camera RENAME TO lost")(folder / DATABASE)
    ballast = fill(tiny_disk)
    store = Store(folder, outbox_limit=1000)
    assert list(store.outbox) == [f"visit{number}:arrived" for number in range(3)]
    store.commit("hall", "{}", [event_row(3)])
    store.confirm("visit0:arrived")
    assert not store.flush()
    ballast.unlink()
    store.flush()
    assert store.flush()
    store.close()
    again = Store(folder, outbox_limit=1000)
    assert [(row.seq, row.event_id) for row in again.outbox.values()] == [
        (2, "visit1:arrived"), (3, "visit2:arrived"), (4, "visit3:arrived"),
    ]  # fmt: skip
    assert [row.seq for row in read_history(folder)] == [4, 3, 2, 1]
    again.close()


def test_a_full_disk_loses_nothing_while_the_process_lives(
    tiny_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = metrics.STORE_ERRORS.labels("full")._value.get()
    store = Store(tiny_disk / "state", outbox_limit=1000)
    store.commit("hall", '"before"', [event_row(0)])
    ballast = fill(tiny_disk)
    for number in range(1, 200):
        store.commit("hall", f'"{number}"', [event_row(number, '{"x": "' + "x" * 500 + '"}')])
    assert "full" in store.fault
    assert metrics.STORE_ERRORS.labels("full")._value.get() > before
    assert len(store.outbox) == 200, "all events are published, on disk or not"
    assert sum("cannot be written" in record.message for record in caplog.records) == 1
    assert "free some space" in caplog.text
    store.confirm("visit0:arrived")
    store.confirm("visit149:arrived")
    assert not store.flush()
    ballast.unlink()
    assert store.flush()
    assert store.fault == ""
    assert store._lock
    store._lock.close()  # dead
    again = Store(tiny_disk / "state", outbox_limit=1000)
    assert again.cameras["hall"].record == '"199"'
    expected = [f"visit{number}:arrived" for number in range(200) if number not in (0, 149)]
    assert [row.event_id for row in again.outbox.values()] == expected
    again.close()


def test_disk_full_from_the_start(tiny_disk: Path) -> None:
    (tiny_disk / "state").mkdir()
    ballast = fill(tiny_disk)
    store = Store(tiny_disk / "state", outbox_limit=1000)
    store.commit("hall", '"now"', [event_row(1)])
    assert store.fault
    assert list(store.outbox) == ["visit1:arrived"]
    store.close()
    store = Store(tiny_disk / "state", outbox_limit=1000)
    store.commit("hall", '"now"', [event_row(2)])
    assert not store.flush()
    ballast.unlink()
    assert store.flush()
    assert not store.has_lost_settings, "nothing was ever stored"
    store.close()
    again = Store(tiny_disk / "state", outbox_limit=1000)
    assert again.cameras["hall"].record == '"now"'
    again.close()


def test_an_emptied_database_on_a_full_disk_has_lost_its_settings(tiny_disk: Path) -> None:
    """The first attempt left the start of a new file, which then counted as all that had been stored."""
    store = Store(tiny_disk / "state", outbox_limit=10)
    store.keep_setting("armed/", '{"on": true}')
    store.close()
    (tiny_disk / "state" / DATABASE).write_bytes(b"")
    ballast = fill(tiny_disk)
    os.truncate(ballast, ballast.stat().st_size - 16_384)
    store = Store(tiny_disk / "state", outbox_limit=10)
    assert store.fault
    assert not store.flush()
    ballast.unlink()
    assert store.flush()
    assert (store.is_loaded, store.has_lost_settings) == (True, True)
    store.close()


def test_full_disk_is_reported_and_the_alarm_is_still_published(
    tmp_path: Path, tiny_disk: Path
) -> None:
    state: dict[str, Any] = {"state_dir": str(tiny_disk / "state")}
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path / "node", {"port": broker.port}, **state) as (_, actor),
    ):
        wait_for(lambda: ear.last("/availability") == b"online")
        actor.show_and_wait(EMPTY)
        ballast = fill(tiny_disk)
        for _ in range(12):  # some data still fits into the existing write-ahead log
            actor.show_and_wait(PERSON, 8)
            actor.show_and_wait(EMPTY, 40)
        wait_for(lambda: len(ear.events()) == 24)
        assert len({event["event_id"] for event in ear.events()}) == 24
        wait_for(lambda: b"full" in (ear.last("/hall/status") or b""))
        ballast.unlink()
        wait_for(lambda: b'"store":"ok"' in (ear.last("/hall/status") or b""))


@pytest.mark.parametrize("is_killed", [False, True])
def test_an_alarm_that_waited_is_published_after_a_start_on_a_full_disk(
    tmp_path: Path, tiny_disk: Path, is_killed: bool
) -> None:
    folder = tiny_disk / "state"
    with running_mosquitto(tmp_path / "broker") as broker:
        broker.kill()
        with running_controller(
            tmp_path / "node", {"port": broker.port}, state_dir=str(folder)
        ) as (controller, actor):
            actor.show_and_wait(EMPTY)
            actor.show_and_wait(PERSON, 8)
            if is_killed:
                controller.kill()
            else:
                assert controller.terminate() == 0
            assert (folder / f"{DATABASE}-wal").exists() == is_killed
            ballast = fill(tiny_disk)
            broker.start()
            with listening(broker) as ear:
                controller.start()
                wait_for(lambda: b"full" in (ear.last("/node1/problem") or b""))
                wait_for(ear.events)
                assert [event["kind"] for event in ear.events()] == ["person_arrived"]
                assert "disk is full" in controller.log()
                assert "permissions" not in controller.log()
                ballast.unlink()
                wait_for(lambda: b'"store":"ok"' in (ear.last("/hall/status") or b""))
                wait_for(lambda: len(ear.events()) == 2)
                # Its visit was not resumed: whether it goes on was unknown
                assert [event["kind"] for event in ear.events()] == [
                    "person_arrived",
                    "person_lost",
                ]
                wait_for(lambda: not waiting_events(folder))
                assert controller.terminate() == 0
    assert [row.kind for row in read_history(folder)] == ["person_lost", "person_arrived"]


def waiting_events(folder: Path) -> list[Any]:
    """Return the events in the database of a running controller that the broker has not acknowledged."""
    with closing(sqlite3.connect(f"{(folder / DATABASE).as_uri()}?mode=ro", uri=True)) as found:
        return found.execute("SELECT event_id FROM outbox").fetchall()


def locked(folder: Path) -> sqlite3.Connection:
    """Lock the database as a backup program may do."""
    holder = sqlite3.connect(folder / DATABASE, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    return holder


def test_database_locked_at_the_start_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events must still be sent, and events decided meanwhile must not reuse their numbers."""
    monkeypatch.setattr("tridetr.controller.store.START_WAIT_S", 0.1)
    store = Store(tmp_path, outbox_limit=100)
    store.commit("hall", '"old"', [event_row(1), NewRow(1, "camera_back", "{}"), event_row(2)])
    store.commit("gone", '"gone"', [])
    store.close()
    holder = locked(tmp_path)
    store = Store(tmp_path, outbox_limit=100)
    assert "locked" in store.fault
    assert not store.is_loaded
    store.commit("hall", '"new"', [event_row(3), event_row(4)])
    store.confirm("visit3:arrived")
    assert not store.flush()
    assert store.found_late == {}
    holder.close()
    assert store.flush()
    assert (store.is_loaded, store.has_lost_settings) == (True, False)
    assert store.fault == ""
    assert list(store.outbox) == ["visit1:arrived", "visit2:arrived", "visit4:arrived"]
    assert store.cameras["hall"].record == '"new"'
    assert {name: saved.record for name, saved in store.found_late.items()} == {
        "hall": '"old"', "gone": '"gone"',
    }  # fmt: skip
    store.close()
    again = Store(tmp_path, outbox_limit=100)
    assert [(row.seq, row.event_id) for row in again.outbox.values()] == [
        (1, "visit1:arrived"), (3, "visit2:arrived"), (5, "visit4:arrived"),
    ]  # fmt: skip
    assert [row.seq for row in read_history(tmp_path)] == [5, 4, 3, 2, 1]
    assert again.found_late == {}
    again.close()


def test_commit_reported_as_failed_but_written_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, outbox_limit=100)
    store.commit("hall", "{}", [event_row(1)])
    write = Database.write

    def uncertain(self: Database, *arguments: Any) -> None:
        write(self, *arguments)
        monkeypatch.setattr(Database, "write", write)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Database, "write", uncertain)
    store.commit("hall", "{}", [event_row(2), NewRow(3, "camera_back", "{}")])
    store.commit("hall", "{}", [event_row(3)])
    store.flush()
    assert store.flush()
    assert store.fault == ""
    store.close()
    again = Store(tmp_path, outbox_limit=100)
    assert list(again.outbox) == [f"visit{n}:arrived" for n in (1, 2, 3)]
    again.close()
