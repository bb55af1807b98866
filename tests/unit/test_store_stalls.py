"""A state disk that does not answer, at any point: decisions continue in memory, and nothing is lost or repeated."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from support.state_database import event_row, let_go
from support.waiting import wait_for
from tridetr.controller import store as store_module
from tridetr.controller.database import CorruptDatabaseError, Database
from tridetr.controller.history import DATABASE, read_history
from tridetr.controller.rescue import rescue
from tridetr.controller.state_files import StoreError
from tridetr.controller.store import Store
from tridetr.controller.stored_rows import Changes, NewRow, Row, Saved
from tridetr.telemetry import metrics


class Disk:
    """The disk of a state folder; everything that `slow` wraps waits until it answers."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.error: Exception | None = None  # of the next answer

    def slow(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*arguments: Any) -> Any:
            assert self.answers.wait(60)
            error, self.error = self.error, None
            if error is not None:
                raise error
            return call(*arguments)

        return wait

    def answer(self, error: Exception | None = None) -> None:
        self.error = error
        self.answers.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr("tridetr.disk_thread.PATIENCE_S", 0.05)
    monkeypatch.setattr("tridetr.controller.store._START_STOP_S", 0.05)
    monkeypatch.setattr("tridetr.controller.store.START_WAIT_S", 0.0)
    monkeypatch.setattr(Database, "write", disk.slow(Database.write))
    monkeypatch.setattr(Database, "load", disk.slow(Database.load))
    for name in ("lock_folder", "rescue", "rebuild_database"):
        monkeypatch.setattr(store_module, name, disk.slow(getattr(store_module, name)))
    yield disk
    disk.answer()


def opened(folder: Path) -> Store:
    """Return a store that has been opened, however slow the machine is."""
    store = Store(folder, outbox_limit=100)
    wait_for(store.flush)
    return store


def wait_for_fault(store: Store, fault: str) -> None:
    wait_for(lambda: not store.flush() and fault in store.fault, what=f"not {fault}")


def reopened(store: Store, folder: Path) -> Store:
    """Return the store of a process that was started after the first one was killed."""
    let_go(store)
    return opened(folder)


@pytest.mark.parametrize(
    "error", [None, sqlite3.OperationalError("disk I/O error"), sqlite3.IntegrityError("twice")]
)
def test_changes_during_a_stall_are_written_after_it_in_order(
    tmp_path: Path, disk: Disk, error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    stalls = metrics.STORE_ERRORS.labels("stalled")._value.get()
    store = opened(tmp_path)
    store.audience = lambda _row: ("phone",)
    store.commit("hall", '"before"', [event_row(1)])
    store.commit("shed", '"removed"', [])
    wait_for(store.flush)
    caplog.clear()
    disk.answers.clear()
    store.commit("hall", '"stalled"', [event_row(2), NewRow(2, "camera_back", "{}")])
    assert list(store.outbox) == ["visit1:arrived", "visit2:arrived"]
    wait_for_fault(store, "the disk does not answer")
    store.keep_setting("armed/", '{"on": false}')
    store.commit("hall", '"meanwhile"', [event_row(3), event_row(4)])
    assert list(store.outbox) == [f"visit{n}:arrived" for n in (1, 2, 3, 4)]
    for event in ("visit1:arrived", "visit2:arrived", "visit3:arrived"):
        store.confirm(event)
        store.notified("phone", event)
    store.keep_setting("armed/", None)
    store.keep_setting("armed/hall", '{"on": true}')
    store.forget("shed")
    store.remember({"topic": "{}"})
    assert not store.flush()
    assert metrics.STORE_ERRORS.labels("stalled")._value.get() > stalls
    assert sum("cannot be written" in record.message for record in caplog.records) == 1
    disk.answer(error)
    wait_for(store.flush)
    assert store.fault == ""
    again = reopened(store, tmp_path)
    assert {name: saved.record for name, saved in again.cameras.items()} == {"hall": '"meanwhile"'}
    assert list(again.outbox) == ["visit4:arrived"]
    assert list(again.notices.waiting["phone"]) == ["visit4:arrived"]
    assert again.settings == {"armed/hall": '{"on": true}'}
    assert again.retained == {"topic": "{}"}
    assert [row.seq for row in read_history(tmp_path)] == [5, 4, 3, 2, 1]
    again.close()


def test_a_disk_that_stalls_at_the_start_is_read_later(tmp_path: Path, disk: Disk) -> None:
    store = opened(tmp_path)
    store.commit("hall", '"old"', [event_row(1)])
    store.keep_setting("armed/", '{"on": false}')
    wait_for(store.flush)
    let_go(store)
    disk.answers.clear()
    store = Store(tmp_path, outbox_limit=100)
    wait_for_fault(store, "the disk does not answer")
    store.commit("hall", '"new"', [event_row(2)])
    store.confirm("visit2:arrived")
    store.commit("hall", '"newer"', [event_row(3)])
    assert list(store.outbox) == ["visit3:arrived"]
    disk.answer()
    wait_for(store.flush)
    assert list(store.outbox) == ["visit1:arrived", "visit3:arrived"]
    assert store.found_late["hall"].record == '"old"'
    assert store.settings == {"armed/": '{"on": false}'}
    again = reopened(store, tmp_path)
    assert [(row.seq, row.event_id) for row in again.outbox.values()] == [
        (1, "visit1:arrived"), (4, "visit3:arrived"),
    ]  # fmt: skip
    assert again.cameras["hall"].record == '"newer"'
    again.close()


def test_another_controller_that_is_found_late_keeps_its_database(
    tmp_path: Path, disk: Disk
) -> None:
    other = opened(tmp_path)
    other.commit("hall", '"other"', [event_row(1)])
    disk.answers.clear()
    store = Store(tmp_path, outbox_limit=100)
    disk.answer()
    wait_for_fault(store, "another controller")
    store.commit("hall", '"mine"', [event_row(2)])
    assert list(store.outbox) == ["visit2:arrived"]
    with pytest.raises(StoreError, match="another controller"):
        Store(tmp_path, outbox_limit=100)
    wait_for(other.flush)
    let_go(other)
    wait_for(store.flush)
    assert list(store.outbox) == ["visit1:arrived", "visit2:arrived"]
    store.close()


@pytest.mark.parametrize("error", [None, sqlite3.OperationalError("disk I/O error")])
def test_a_stall_while_a_broken_database_is_replaced(
    tmp_path: Path, disk: Disk, error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    store.commit("hall", '"old"', [event_row(1), event_row(2)])
    wait_for(store.flush)

    def stall_after(path: Path) -> Any:
        found = rescue(path)
        disk.answers.clear()
        return found

    monkeypatch.setattr(store_module, "rescue", stall_after)
    disk.error = CorruptDatabaseError("database disk image is malformed")
    store.commit("hall", '"broken"', [event_row(3)])
    wait_for_fault(store, "the disk does not answer")
    store.confirm("visit1:arrived")
    store.confirm("visit3:arrived")
    store.commit("hall", '"meanwhile"', [event_row(4)])
    disk.answer(error)
    wait_for(store.flush)
    again = reopened(store, tmp_path)
    assert list(again.outbox) == ["visit2:arrived", "visit4:arrived"]
    assert again.cameras["hall"].record == '"meanwhile"'
    if error is None:
        assert any(".corrupt-" in path.name for path in tmp_path.iterdir())
    again.close()


def test_a_file_that_always_seems_replaced_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems number a file differently each time."""
    store = opened(tmp_path)
    monkeypatch.setattr(Database, "is_current", property(lambda _database: False))
    assert not store.flush()
    monkeypatch.undo()
    assert store.flush()
    store.close()


def test_only_the_newest_notes_wait_for_the_disk(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "HISTORY_LIMIT", 10)
    store = opened(tmp_path)
    disk.answers.clear()
    store.commit("hall", "{}", [NewRow(1, "camera_back", "{}")])
    wait_for_fault(store, "the disk does not answer")
    for number in range(2, 31):
        store.commit("hall", "{}", [NewRow(number, "camera_back", "{}")])
    disk.answer()
    wait_for(store.flush)
    assert [row.seq for row in read_history(tmp_path)] == [*range(30, 20, -1), 1]
    store.close()


@pytest.mark.parametrize(
    ("events", "setting", "lost"),
    [
        (0, "", ""),
        (0, "armed/hall", "setting armed/hall, state of hall"),
        (2, "", "2 event(s) that the broker has not acknowledged, state of hall"),
        (1, "armed/", "1 event(s) that the broker has not acknowledged, setting armed/, state of hall"),
    ],
)  # fmt: skip
def test_a_stop_with_something_that_is_on_no_disk_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    events: int,
    setting: str,
    lost: str,
) -> None:
    """A switch that was set while the disk was read-only was lost at a stop without a line in the log."""
    store = opened(tmp_path)
    fault = sqlite3.OperationalError("attempt to write a readonly database")
    monkeypatch.setattr(Database, "write", Mock(side_effect=fault))
    if lost:
        store.commit("hall", "{}", [event_row(number) for number in range(events)])
    if setting:
        store.keep_setting(setting, "{}")
    caplog.clear()
    store.close()
    said = [r.getMessage() for r in caplog.records if "not taken everything" in r.getMessage()]
    expected = f"stopped although the disk has not taken everything; this may be lost: {lost}"
    assert said == ([expected] if lost else [])


def test_later_changes_apply() -> None:
    def row(seq: int) -> Row:
        return Row(seq, 1, "hall", "kind", "{}")

    earlier = Changes(
        cameras={"a": Saved("1", 1), "b": Saved("1", 1)},
        forgotten={"c", "d"},
        rows=[row(1)],
        notices={("phone", "x"): row(1), ("phone", "y"): None},
    )
    later = Changes(
        cameras={"a": Saved("2", 2), "c": Saved("2", 2)},
        forgotten={"b"},
        rows=[row(2)],
        notices={("phone", "x"): None, ("phone", "z"): row(2)},
    )
    assert earlier.followed_by(later) == Changes(
        cameras={"a": Saved("2", 2), "c": Saved("2", 2)},
        forgotten={"b", "d"},
        rows=[row(1), row(2)],
        notices={("phone", "x"): None, ("phone", "y"): None, ("phone", "z"): row(2)},
    )


SCRIPT = """
import sys, threading
from pathlib import Path
from tridetr import disk_thread
from tridetr.controller.database import Database
from tridetr.controller.store import Store
disk_thread.PATIENCE_S = 0.05
store = Store(Path(sys.argv[1]), outbox_limit=10)
Database.write = lambda *_: threading.Event().wait()
store.keep_setting("a", "b")
store.close()
print(store.fault)
"""


def test_a_process_ends_while_its_disk_stalls(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert f"{tmp_path / DATABASE}: the disk does not answer" in ended.stdout
