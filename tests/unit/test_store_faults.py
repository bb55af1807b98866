"""Any sequence of faults of disk, broker and process, whatever visits come meanwhile: what happens to the events."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, TimeoutError  # noqa: A004
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.state_database import join, let_go
from tridetr.controller.database import Database
from tridetr.controller.history import DATABASE
from tridetr.controller.outbox import OutboxPump
from tridetr.controller.store import Store
from tridetr.controller.stored_rows import Contents, NewRow
from tridetr.disk_thread import DiskThread

ACTIONS = ("visit", "visit", "visit", "ack", "ack", "deliver", "up", "down", "kill", "stop", "lock", "unlock",
           "full", "room", "failing", "failed in name", "tick", "remove",
           "stall", "stall", "answer", "answer", "answer failing", "answer failed in name", "kill written")  # fmt: skip


class Broker:
    """Takes events; each connection begins empty."""

    def __init__(self) -> None:
        self.connected = False
        self.ended_s = 0.0
        self.taken: list[str] = []
        self.waiting: list[int] = []
        self._mid = 0

    def publish_acknowledged(self, _topic: str, event_id: str) -> int:
        self._mid += 1
        self.taken.append(event_id)
        self.waiting.append(self._mid)
        return self._mid

    def bounce(self) -> None:
        raise AssertionError("nothing is that slow here")


class Node:
    """A store and its pump, whose disk fails on request, where possible with errors of SQLite itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = Broker()
        self.holder: sqlite3.Connection | None = None
        self.is_full = False
        self.fault: str | None = None  # of the next write
        self.will_stall = False  # the next write, or load at the start
        self.is_stalled = threading.Event()
        self.answer = threading.Event()
        self.made: list[str] = []
        self.delivered: list[str] = []  # what the target of notifications got
        self.safe: set[str] = set()  # on disk once, or in a process that lives
        self.at_risk: set[str] = set()
        self.blind: set[str] = set()  # decided by a process that had not read the database
        self.start()

    def start(self) -> None:
        self.store = Store(self.folder, outbox_limit=1000)
        self.pump = OutboxPump(self.store, self.broker, lambda row, _: ("t", row.event_id))
        self.store.audience = lambda _row: ("phone",)
        self.broker.waiting.clear()

    def stall(self) -> None:
        """Stall in the disk thread, if it is time, until the disk answers."""
        if self.will_stall:
            self.will_stall = False
            self.answer.clear()
            self.is_stalled.set()
            self.answer.wait()

    def wait(self, job: Future[None]) -> bool:
        """Wait for the disk as the store does, except that it knows when the disk has stalled."""
        while not job.done() and not self.is_stalled.is_set():
            with suppress(TimeoutError):
                job.exception(0.001)
        return job.done()

    def load(self, load: Callable[[Database], Contents], database: Database) -> Contents:
        self.stall()
        if self.fault is not None:
            self.fault = None
            raise sqlite3.OperationalError("disk I/O error")
        return load(database)

    def write(self, write: Callable[..., None], database: Database, *arguments: object) -> None:
        self.stall()
        fault, self.fault = self.fault, None
        if self.is_full:
            pages = database._connection.execute("PRAGMA page_count").fetchone()[0]
            database._connection.execute(f"PRAGMA max_page_count={pages}")
        else:
            database._connection.execute("PRAGMA max_page_count=1000000")
        if fault == "failing":
            raise sqlite3.OperationalError("disk I/O error")
        write(database, *arguments)
        if fault == "failed in name":
            raise sqlite3.OperationalError("disk I/O error")

    def do(self, action: str) -> None:
        getattr(self, f"do_{action.replace(' ', '_')}")()
        if not self.store.fault and self.store.flush():
            self.safe |= self.at_risk
            self.at_risk.clear()
        self.pump.pump()

    def do_visit(self) -> None:
        event_id = f"v{len(self.made)}:arrived"
        self.made.append(event_id)
        self.at_risk.add(event_id)
        if not self.store.is_loaded:
            self.blind.add(event_id)
        details = '{"x": "' + "x" * 3000 + '"}'
        self.store.commit("hall", "{}", [NewRow(1, "person_arrived", details, event_id)])

    def do_deliver(self) -> None:
        for event_id in list(self.store.notices.waiting.get("phone", ()))[:1]:
            self.delivered.append(event_id)
            self.store.notified("phone", event_id)

    def do_tick(self) -> None:
        self.store.flush()

    def do_up(self) -> None:
        if not self.broker.connected:
            self.broker.connected = True
            self.broker.waiting.clear()
            self.pump.on_up()

    def do_down(self) -> None:
        self.broker.connected = False

    def do_ack(self) -> None:
        if self.broker.connected and self.broker.waiting:
            self.pump.on_ack(self.broker.waiting.pop(0))

    def do_stall(self) -> None:
        if not self.is_stalled.is_set():
            self.will_stall = True

    def do_answer(self, fault: str | None = None) -> None:
        self.will_stall = False
        if self.is_stalled.is_set():
            self.fault = fault
            self.is_stalled.clear()
            self.answer.set()

    def do_answer_failing(self) -> None:
        self.do_answer("failing")

    def do_answer_failed_in_name(self) -> None:
        self.do_answer("failed in name")

    def do_kill(self, fault: str | None = "failing") -> None:
        """A write that has stalled is lost with the process."""
        self.do_answer(fault)
        let_go(self.store)
        self.at_risk.clear()
        self.start()

    def do_kill_written(self) -> None:
        """A write that has stalled still reaches the disk."""
        is_loading = self.store._database is None
        self.do_kill("failing" if is_loading else None)

    def do_stop(self) -> None:
        self.store.close()
        if self.store.fault:
            self.at_risk.clear()
        self.do_answer("failing")
        join(self.store)
        self.start()

    def do_lock(self) -> None:
        if self.holder is None and (self.folder / DATABASE).exists():
            self.holder = sqlite3.connect(self.folder / DATABASE, isolation_level=None, timeout=0)
            try:
                self.holder.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError:
                self.do_unlock()

    def do_unlock(self) -> None:
        if self.holder is not None:
            self.holder.close()
            self.holder = None

    def do_full(self) -> None:
        self.is_full = True

    def do_room(self) -> None:
        self.is_full = False

    def do_failing(self) -> None:
        self.fault = "failing"

    def do_failed_in_name(self) -> None:
        self.fault = "failed in name"

    def do_remove(self) -> None:
        """A cleaner removes the files; what only they held, nothing brings back."""
        if self.store.is_loaded and self.holder is None:
            for file in self.folder.glob(f"{DATABASE}*"):
                file.unlink()
            if not self.store.flush():  # it is in memory only now
                self.at_risk |= set(self.store.outbox)
                self.at_risk |= set(self.store.notices.waiting.get("phone", ()))
                self.safe -= self.at_risk


@pytest.fixture(scope="module", autouse=True)
def _hurry() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tridetr.controller.store.START_WAIT_S", 0.0)
        patch.setattr("tridetr.controller.store.WAIT_S", 0.0)
        yield


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=150,
    deadline=None,
)
@given(st.lists(st.sampled_from(ACTIONS), max_size=40))
def test_any_faults_deliver_every_event_once_known_under_one_number_in_order(
    tmp_path_factory: pytest.TempPathFactory, course: list[str]
) -> None:
    node = Node(tmp_path_factory.mktemp("store"))
    write, load = Database.write, Database.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "write", lambda *arguments: node.write(write, *arguments))
        patch.setattr(Database, "load", lambda database: node.load(load, database))
        patch.setattr(DiskThread, "_wait", lambda _self, job, _until_s: node.wait(job))
        patch.setattr("tridetr.disk_thread.PATIENCE_S", 0.0)
        for action in [*course, "unlock", "room", "answer", "tick", "tick", "down", "up"]:
            node.do(action)
        while node.broker.waiting:
            node.do("ack")
        while node.store.notices.waiting.get("phone"):
            node.do("deliver")
        check_order(node, node.delivered)
        first = list(dict.fromkeys(node.broker.taken))
        expected = node.safe | node.at_risk
        assert not expected - set(first)
        assert not expected - set(node.delivered)
        assert node.store.flush()
        assert not node.store.outbox
        assert not node.store.fault
        check_order(node, node.broker.taken)
        node.store.close()
    with sqlite3.connect(node.folder / DATABASE) as database:
        assert database.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
        assert database.execute("SELECT count(*) FROM notice").fetchone() == (0,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    assert not any(".corrupt-" in path.name for path in node.folder.iterdir())


def check_order(node: Node, got: list[str]) -> None:
    """A subscriber that drops repeated IDs gets the events in order."""
    first = list(dict.fromkeys(got))
    ordered = [event_id for event_id in first if event_id not in node.blind]
    assert ordered == sorted(ordered, key=node.made.index)
