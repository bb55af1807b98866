"""Queued notifications with a database that is damaged, removed or locked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.state_database import run_sql
from tridetr.controller import notices
from tridetr.controller.history import DATABASE
from tridetr.controller.store import Store
from tridetr.controller.stored_rows import NewRow


def opened(folder: Path) -> Store:
    store = Store(folder, outbox_limit=100)
    store.audience = lambda _row: ("phone", "hook")
    return store


def visit(store: Store, *numbers: int) -> None:
    for number in numbers:
        event_id = f"v{number}:arrived"
        details = f'{{"event_id": "{event_id}"}}'
        store.commit("hall", "{}", [NewRow(number, "person_arrived", details, event_id)])


def waiting(store: Store) -> dict[str, list[str]]:
    return {name: list(queue) for name, queue in store.notices.waiting.items() if queue}


@pytest.mark.parametrize(
    "damage",
    [
        run_sql("DROP TABLE history"),
        run_sql("DROP TABLE outbox"),
        run_sql("DROP TABLE camera"),
        run_sql("UPDATE outbox SET details = 5"),
        run_sql("PRAGMA user_version = 0"),
        run_sql("INSERT INTO notice VALUES ('phone', 'v9:arrived', 9, 'x', 'hall', 'k', '{}')"),
        run_sql("INSERT INTO setting VALUES ('a', x'ff')"),
    ],
)
def test_waiting_notices_of_a_damaged_database_are_recovered(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    store = opened(tmp_path)
    visit(store, 1, 2)
    store.notified("phone", "v1:arrived")
    store.keep_setting("armed/", '{"on": false}')
    store.close()
    damage(tmp_path / DATABASE)
    store = opened(tmp_path)
    expected = {"phone": ["v2:arrived"], "hook": ["v1:arrived", "v2:arrived"]}
    assert waiting(store) == expected
    assert store.settings == {"armed/": '{"on": false}'}
    assert store.fault == ""
    store.close()
    again = opened(tmp_path)
    assert waiting(again) == expected
    assert again.settings == {"armed/": '{"on": false}'}
    again.close()


def test_camera_notice_waits_like_an_event_without_being_one(tmp_path: Path) -> None:
    store = opened(tmp_path)
    visit(store, 1)
    store.add_notice(NewRow(2, "camera_blind", "{}", "o1:blind"), "hall", ("phone",))
    store.keep_setting("blind/hall", "{}")
    visit(store, 2)
    store.close()
    again = opened(tmp_path)
    assert waiting(again) == {
        "phone": ["v1:arrived", "o1:blind", "v2:arrived"],
        "hook": ["v1:arrived", "v2:arrived"],
    }
    assert list(again.outbox) == ["v1:arrived", "v2:arrived"]
    assert again.last_seq == 2
    again.close()


def test_database_removed_while_in_use_is_rewritten(tmp_path: Path) -> None:
    store = opened(tmp_path)
    visit(store, 1, 2)
    store.keep_setting("armed/hall", '{"on": true}')
    store.confirm("v1:arrived")
    for file in tmp_path.glob(f"{DATABASE}*"):
        file.unlink()
    assert store.flush()
    store.close()
    again = opened(tmp_path)
    assert waiting(again) == {name: ["v1:arrived", "v2:arrived"] for name in ("phone", "hook")}
    assert list(again.outbox) == ["v2:arrived"]
    assert again.settings == {"armed/hall": '{"on": true}'}
    again.close()


def test_oldest_notice_is_dropped_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "LIMIT", 2)
    store = opened(tmp_path)
    visit(store, 1, 2, 3)
    store.close()
    again = opened(tmp_path)
    assert waiting(again)["phone"] == ["v2:arrived", "v3:arrived"]
    again.close()
