"""A state database that is broken, missing, or of another version."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from support.state_database import event_row, run_sql
from tridetr.controller.database import (
    CorruptDatabaseError,
    Database,
    NewerDatabaseError,
    refuse_newer,
)
from tridetr.controller.history import DATABASE, read_history
from tridetr.controller.state_files import StoreError
from tridetr.controller.store import Store
from tridetr.controller.stored_rows import NewRow


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 9000]
)
def test_broken_database_is_moved_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATABASE).write_bytes(content)
    store = Store(tmp_path, outbox_limit=100)
    store.commit("hall", '"new"', [event_row(1)])
    assert store.fault == ""
    assert store.has_lost_settings
    aside = [path for path in tmp_path.iterdir() if ".corrupt-" in path.name]
    assert [path.read_bytes() for path in aside] == [content]
    assert [row.kind for row in read_history(tmp_path)] == ["person_arrived"]
    store.close()


def test_only_the_newest_broken_databases_are_kept(tmp_path: Path) -> None:
    mine = tmp_path / f"{DATABASE}.corrupt-my-copy"
    mine.write_bytes(b"")
    for number in range(5):
        (tmp_path / DATABASE).write_bytes(b"not a database %d" % number * 100)
        Store(tmp_path, outbox_limit=100).close()
    aside = sorted(path for path in tmp_path.glob(f"{DATABASE}.corrupt-*") if path != mine)
    assert [path.read_bytes()[:16] for path in aside] == [
        b"not a database %d" % n for n in (2, 3, 4)
    ]
    assert mine.exists()


def test_a_database_of_a_later_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    before = (tmp_path / DATABASE).read_bytes()
    with pytest.raises(StoreError, match=r"later version of tridetr \(layout 99"):
        Store(tmp_path, outbox_limit=100)
    with pytest.raises(NewerDatabaseError, match="later version"):  # before anything is started
        refuse_newer(tmp_path / DATABASE)
    assert (tmp_path / DATABASE).read_bytes() == before
    assert not any(".corrupt-" in path.name for path in tmp_path.iterdir())


def test_database_broken_while_running_is_rebuilt_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, outbox_limit=100)
    store.commit("hall", '"old"', [event_row(1), event_row(2)])
    store.confirm("visit1:arrived")
    write = Database.write

    def broken(self: Database, *arguments: object) -> None:
        monkeypatch.setattr(Database, "write", write)
        raise CorruptDatabaseError("database disk image is malformed")

    monkeypatch.setattr(Database, "write", broken)
    store.commit("hall", '"new"', [event_row(3)])
    assert store.flush()
    assert store._lock
    store._lock.close()
    again = Store(tmp_path, outbox_limit=100)
    assert again.cameras["hall"].record == '"new"'
    assert [row.event_id for row in again.outbox.values()] == ["visit2:arrived", "visit3:arrived"]
    again.close()


LAYOUT_1 = """
CREATE TABLE camera (
  name TEXT PRIMARY KEY, record TEXT NOT NULL, updated_unix_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE outbox (
  seq INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, unix_ns INTEGER NOT NULL,
  camera TEXT NOT NULL, kind TEXT NOT NULL, details TEXT NOT NULL);
CREATE TABLE history (
  seq INTEGER PRIMARY KEY, unix_ns INTEGER NOT NULL,
  camera TEXT NOT NULL, kind TEXT NOT NULL, details TEXT NOT NULL);
PRAGMA user_version=1;
INSERT INTO camera VALUES ('hall', '"old"', 5);
INSERT INTO history VALUES (6, 1, 'hall', 'person_arrived', '{}'), (7, 2, 'hall', 'person_left', '{}');
INSERT INTO outbox VALUES (7, 'v1:left', 2, 'hall', 'person_left', '{}');
"""


def test_a_database_of_the_first_version_is_migrated(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.executescript(LAYOUT_1)
    connection.close()
    store = Store(tmp_path, outbox_limit=100)
    assert (list(store.outbox), store.cameras["hall"].record) == (["v1:left"], '"old"')
    store.remember({"a/b": ""})
    assert store.commit("hall", '"new"', [event_row(1)])[0].seq == 8
    store.close()
    again = Store(tmp_path, outbox_limit=100)
    assert list(again.outbox) == ["v1:left", "visit1:arrived"]
    assert again.retained == {"a/b": ""}
    assert [row.seq for row in read_history(tmp_path)] == [8, 7, 6]
    assert not any(".corrupt-" in path.name for path in tmp_path.iterdir())
    again.close()


def flip(text: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        at = -1
        while (at := content.find(text, at + 1)) >= 0:
            content[at + 3] ^= 0x80
            break
        path.write_bytes(content)

    return damage


@pytest.mark.parametrize(
    ("damage", "saved"),
    [
        (flip(b"person_arrived"), 3),
        (flip(b"visit2:arrived"), 3),
        (run_sql("UPDATE outbox SET details = x'fffe' WHERE seq = 2"), 3),
        # The error quotes this text, which contains "full"
        (run_sql("UPDATE outbox SET details = CAST(x'66756c6cff' AS TEXT) WHERE seq = 2"), 3),
        (run_sql("UPDATE outbox SET kind = 7, camera = x'00ff' WHERE seq = 2"), 3),
        (run_sql("UPDATE outbox SET details = replace(details, '{', 's') WHERE seq = 2"), 3),
        (run_sql("UPDATE outbox SET camera = 'ha#l' WHERE seq = 2"), 3),
        (run_sql("INSERT INTO camera VALUES ('bac+yard', '{}', 5)"), 3),
        (run_sql("INSERT INTO retained VALUES ('tridetr/#amera/state', '')"), 3),
        (run_sql("INSERT INTO retained VALUES ('homeassistant/x', '{#visits\": \"event\"}')"), 3),
        (run_sql("INSERT INTO setting VALUES ('armed/', '[\"on\": true}')"), 3),
        (run_sql("UPDATE history SET seq = 9223372036854775807 WHERE seq = 3"), 3),
        (run_sql("UPDATE outbox SET seq = -3 WHERE seq = 3"), 3),
        (run_sql("UPDATE camera SET updated_unix_ns = 'yesterday'"), 3),
        (run_sql("ALTER TABLE outbox DROP COLUMN details"), 3),
        (run_sql("DROP TABLE camera; CREATE TABLE camera (foo)"), 3),
        (run_sql("DROP TABLE history"), 3),
        (run_sql("DROP TABLE outbox"), 0),
        (run_sql("PRAGMA user_version = 0"), 3),
        (run_sql("PRAGMA user_version = 123456789"), 3),
        (flip(b"TABLE outbox"), 0),
        (lambda path: os.truncate(path, 0), 0),
        (lambda path: os.truncate(path, 50), 0),
        (lambda path: os.truncate(path, 4096 * 2 + 100), 0),
    ],
)
def test_readable_contents_of_a_damaged_database_are_recovered(
    tmp_path: Path, damage: Callable[[Path], None], saved: int, caplog: pytest.LogCaptureFixture
) -> None:
    """No damage may keep the controller from starting or lose everything."""
    store = Store(tmp_path, outbox_limit=100)
    store.commit(
        "hall", "{}", [event_row(n, f'{{"event_id": "visit{n}:arrived"}}') for n in (1, 2, 3)]
    )
    store.close()
    damage(tmp_path / DATABASE)
    store = Store(tmp_path, outbox_limit=100)
    assert len(store.outbox) == saved
    assert store.fault == ""
    assert "broken" in caplog.text or "is empty" in caplog.text
    store.commit("hall", "{}", [event_row(4)])
    assert store.flush()
    expected = [*(f"visit{n}:arrived" for n in (1, 2, 3) if saved), "visit4:arrived"]
    assert [row.event_id for row in store.outbox.values()] == expected
    store.close()
    caplog.clear()
    again = Store(tmp_path, outbox_limit=100)
    assert list(again.outbox) == expected
    assert caplog.text == ""
    again.close()


def test_a_topic_with_damaged_entities_is_kept_to_be_cleared(tmp_path: Path) -> None:
    store = Store(tmp_path, outbox_limit=100)
    store.remember({"homeassistant/x": '{"visits": "event"}', "homeassistant/y": '{"a": "b"}'})
    store.close()
    run_sql("UPDATE retained SET entities = replace(entities, 'visits\"', 'visits#')")(
        tmp_path / DATABASE
    )
    again = Store(tmp_path, outbox_limit=100)
    assert again.retained == {"homeassistant/x": "", "homeassistant/y": '{"a": "b"}'}
    again.close()


def test_broken_header_is_not_a_later_version(tmp_path: Path) -> None:
    refuse_newer(tmp_path / DATABASE)
    (tmp_path / DATABASE).write_bytes(b"junk" * 500)
    refuse_newer(tmp_path / DATABASE)
    Store(tmp_path, outbox_limit=100).close()
    refuse_newer(tmp_path / DATABASE)


def test_folder_or_device_in_place_of_the_database_is_moved_aside(tmp_path: Path) -> None:
    ways: list[Callable[[Path], None]] = [
        Path.mkdir,
        lambda path: path.symlink_to("/dev/full"),
        os.mkfifo,
    ]
    for number, make in enumerate(ways):
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder / DATABASE)
        store = Store(folder, outbox_limit=100)
        store.commit("hall", "{}", [event_row(1)])
        assert store.fault == ""
        store.close()
        assert any(".corrupt-" in path.name for path in folder.iterdir())


def test_interrupted_replacement_is_completed(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    store = Store(tmp_path, outbox_limit=100)
    store.commit("hall", "{}", [event_row(1)])
    store.close()
    path.rename(path.with_name(f"{DATABASE}.new"))
    path.write_bytes(b"broken" * 1000)
    path.with_name(f"{DATABASE}.begun").write_bytes(b"half of an earlier one")
    again = Store(tmp_path, outbox_limit=100)
    assert list(again.outbox) == ["visit1:arrived"]
    again.close()


def test_database_removed_while_in_use_is_rewritten(tmp_path: Path) -> None:
    store = Store(tmp_path, outbox_limit=100)
    store.commit("hall", '"hall"', [event_row(1), event_row(2)])
    store.confirm("visit1:arrived")
    for file in tmp_path.glob(f"{DATABASE}*"):
        file.unlink()
    assert store.flush()
    store.close()
    again = Store(tmp_path, outbox_limit=100)
    assert list(again.outbox) == ["visit2:arrived"]
    assert again.cameras["hall"].record == '"hall"'
    again.close()


def test_a_damaged_row_does_not_hide_the_rest_of_the_history(tmp_path: Path) -> None:
    store = Store(tmp_path, outbox_limit=100)
    store.commit("hall", "{}", [NewRow(n, "camera_back", "{}") for n in (1, 2, 3, 4, 5, 6)])
    store.close()
    run_sql("UPDATE history SET details = '[]' WHERE seq = 5")(tmp_path / DATABASE)
    run_sql("UPDATE history SET unix_ns = 'now' WHERE seq = 6")(tmp_path / DATABASE)
    run_sql("UPDATE history SET details = x'ff' WHERE seq = 2")(tmp_path / DATABASE)
    run_sql("UPDATE history SET kind = CAST(x'63ff' AS TEXT) WHERE seq = 3")(tmp_path / DATABASE)
    assert [row.seq for row in read_history(tmp_path)] == [4, 3, 1]


def test_missing_database_is_an_empty_history(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    (tmp_path / DATABASE).write_bytes(b"junk" * 500)
    assert read_history(tmp_path) == []
