"""The store on a real disk: full, broken, at its limit."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.mosquitto import listening, running_mosquitto
from support.sentry import NOBODY, PERSON, running_controller
from support.waiting import wait_for
from tridetr.controller.database import Database
from tridetr.controller.history import DATABASE, HISTORY_LIMIT, read_history
from tridetr.controller.store import NewRow, Store, StoreError
from tridetr.telemetry import metrics


def event(number: int, details: str = "{}") -> NewRow:
    return NewRow(number, "person_arrived", details, f"visit{number}:arrived")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all space that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return ballast


def test_what_was_committed_is_there_after_the_process_died(tmp_path: Path) -> None:
    store = Store(tmp_path, outbox_limit=100)
    store.commit("hall", '{"a": 1}', [event(1), NewRow(2, "camera_back", "{}")])
    store.commit("door", '{"b": 2}', [event(3)])
    store.confirm(1)
    os.close(store._lock)  # dead: nothing is closed
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


def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    store = Store(tmp_path, outbox_limit=100)
    store.commit("hall", "{}", [event(1), event(2)])
    store.confirm(1)
    store.confirm(2)
    store.close()
    store = Store(tmp_path, outbox_limit=100)
    assert store.commit("hall", "{}", [event(3)])[0].seq == 3
    store.close()


def test_files_are_private(tmp_path: Path) -> None:
    store = Store(tmp_path / "state", outbox_limit=100)
    store.commit("hall", "{}", [event(1)])
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
        store.commit("hall", "{}", [event(number)])
    assert list(store.outbox) == list(range(31, 131))
    assert metrics.OUTBOX_DROPPED._value.get() - before == 30
    store.close()
    again = Store(tmp_path, outbox_limit=100)
    assert list(again.outbox) == list(range(31, 131))
    again.close()


def test_the_history_is_bounded(tmp_path: Path) -> None:
    store = Store(tmp_path, outbox_limit=100)
    for number in range(0, HISTORY_LIMIT + 300, 50):
        store.commit("hall", "{}", [NewRow(number, "camera_back", "{}") for _ in range(50)])
    rows = read_history(tmp_path, limit=10_000)
    assert len(rows) == HISTORY_LIMIT
    assert rows[0].seq == store.last_seq
    store.close()


def test_a_full_disk_loses_nothing_while_the_process_lives(
    tiny_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = metrics.STORE_ERRORS.labels("full")._value.get()
    store = Store(tiny_disk / "state", outbox_limit=1000)
    store.commit("hall", '"before"', [event(0)])
    ballast = fill(tiny_disk)
    for number in range(1, 200):
        store.commit("hall", f'"{number}"', [event(number, '"' + "x" * 500 + '"')])
    assert "full" in store.fault
    assert metrics.STORE_ERRORS.labels("full")._value.get() > before
    assert len(store.outbox) == 200, "all go out, on disk or not"
    assert sum("cannot be written" in record.message for record in caplog.records) == 1
    assert "free some space" in caplog.text
    store.confirm(1)
    store.confirm(150)
    assert not store.flush()
    ballast.unlink()
    assert store.flush()
    assert store.fault == ""
    os.close(store._lock)  # dead
    again = Store(tiny_disk / "state", outbox_limit=1000)
    assert again.cameras["hall"].record == '"199"'
    expected = [f"visit{number}:arrived" for number in range(200) if number not in (0, 149)]
    assert [row.event_id for row in again.outbox.values()] == expected
    again.close()


def test_a_disk_that_is_full_from_the_start(tiny_disk: Path) -> None:
    (tiny_disk / "state").mkdir()
    ballast = fill(tiny_disk)
    store = Store(tiny_disk / "state", outbox_limit=1000)
    store.commit("hall", '"now"', [event(1)])
    assert store.fault
    assert list(store.outbox) == [1]
    ballast.unlink()
    assert store.flush()
    store.close()
    again = Store(tiny_disk / "state", outbox_limit=1000)
    assert again.cameras["hall"].record == '"now"'
    again.close()


def test_a_full_disk_is_said_and_the_alarm_still_goes_out(tmp_path: Path, tiny_disk: Path) -> None:
    state = {"state_dir": str(tiny_disk / "state")}
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path / "node", {"port": broker.port}, **state) as (_, actor),
    ):
        wait_for(lambda: ear.last("/availability") == b"online")
        actor.show_and_wait(NOBODY)
        ballast = fill(tiny_disk)
        for _ in range(12):  # some still fits into the log that is there
            actor.show_and_wait(PERSON, 8)
            actor.show_and_wait(NOBODY, 40)
        wait_for(lambda: len(ear.events()) == 24)
        assert len({event["event_id"] for event in ear.events()}) == 24
        wait_for(lambda: b"full" in (ear.last("/hall/status") or b""))
        ballast.unlink()
        wait_for(lambda: b'"store":"ok"' in (ear.last("/hall/status") or b""))


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 9000]
)
def test_a_broken_database_is_put_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATABASE).write_bytes(content)
    store = Store(tmp_path, outbox_limit=100)
    store.commit("hall", '"new"', [event(1)])
    assert store.fault == ""
    aside = [path for path in tmp_path.iterdir() if ".corrupt-" in path.name]
    assert [path.read_bytes() for path in aside] == [content]
    assert [row.kind for row in read_history(tmp_path)] == ["person_arrived"]
    store.close()


def test_a_database_of_a_later_version_is_put_aside_and_not_overwritten(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    Store(tmp_path, outbox_limit=100).close()
    assert any(".corrupt-" in path.name for path in tmp_path.iterdir())


def test_a_database_that_breaks_while_running_is_rebuilt_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, outbox_limit=100)
    store.commit("hall", '"old"', [event(1), event(2)])
    store.confirm(1)
    write = Database.write

    def broken(self: Database, *arguments: object) -> None:
        monkeypatch.setattr(Database, "write", write)
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(Database, "write", broken)
    store.commit("hall", '"new"', [event(3)])
    assert store.flush()
    os.close(store._lock)
    again = Store(tmp_path, outbox_limit=100)
    assert again.cameras["hall"].record == '"new"'
    assert [row.event_id for row in again.outbox.values()] == ["visit2:arrived", "visit3:arrived"]
    again.close()


def test_nothing_there_is_an_empty_history(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    (tmp_path / DATABASE).write_bytes(b"junk" * 500)
    assert read_history(tmp_path) == []
