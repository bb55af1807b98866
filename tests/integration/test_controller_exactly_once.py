"""Crash the controller at every single step of a visit: no event is lost, and none gets a second ID.

The real sentry, store, pump and rings run in this process. A step is a write to the disk, the board or the broker, and
the crash happens immediately before or after it. Resources of the crashed process are released as the kernel would:
an open transaction is rolled back, and locks are freed.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from support import state_database
from support.sentry import EMPTY, PERSON, Actor
from tridetr.config import Config
from tridetr.controller.camera_control import CameraSentry
from tridetr.controller.database import Database
from tridetr.controller.outbox import OutboxPump
from tridetr.controller.payloads import published
from tridetr.controller.store import Store
from tridetr.served_model import ServedModelReader
from tridetr.shm.boards import SentrySnapshot, SentryWriter
from tridetr.shm.names import unlink_instance

# A whole visit fits into the ring, so a controller that reads old results again would count it twice. Confirmation
# needs a number of frames only, so a frame that is counted twice shows up.
KEYS = {"confirm_frames": 4, "confirm_s": 0.0, "clear_s": 0.3}
SCRIPT = [EMPTY] + ([PERSON] * 5 + [EMPTY] * 6) * 2


class Crash(BaseException):
    """The process has crashed."""


class Fate:
    """Counts the steps and crashes at one of them."""

    def __init__(self, strike_at: int) -> None:
        self.steps = 0
        self.strike_at = strike_at

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.strike_at:
            raise Crash


class Broker:
    """Accepts events; acknowledgements are delayed until ``acknowledge``."""

    connected = True
    ended_s = 0.0

    def __init__(self, fate: Fate) -> None:
        self.fate = fate
        self.taken: list[dict[str, object]] = []
        self.under_way: list[int] = []
        self._mid = 0

    def publish_acknowledged(self, topic: str, payload: str) -> int:
        self.fate.step()
        self._mid += 1
        self.taken.append(json.loads(payload))
        self.under_way.append(self._mid)
        self.fate.step()
        return self._mid

    def bounce(self) -> None:
        raise AssertionError("there was nothing to wait for")


class Process:
    """The parts of a controller process."""

    def __init__(self, config: Config, broker: Broker) -> None:
        broker.under_way.clear()
        self.broker = broker
        self.store = Store(config.state_dir, outbox_limit=100)
        models = ServedModelReader(config.run_dir)
        self.sentry = CameraSentry(config, "hall", self.store, models, "node1", lambda _: None)
        self.pump = OutboxPump(
            self.store, broker, lambda row, _: ("events", published(row.details, row.unix_ns))
        )

    def turn(self) -> None:
        """Run one turn of the event loop after a wake-up."""
        self.sentry.tick()
        self.pump.pump()
        while self.broker.under_way:
            self.pump.on_ack(self.broker.under_way.pop(0))


def let_go(process: Process) -> None:
    """Release the resources of a dead process without saving anything."""
    state_database.let_go(process.store)
    process.sentry._results.close()
    process.sentry._watch.close()
    process.sentry._board.close()


@pytest.fixture
def fate(monkeypatch: pytest.MonkeyPatch) -> Fate:
    fate = Fate(0)
    write, board_write = Database.write, SentryWriter.write

    def struck_write(self: Database, *arguments: Any) -> None:
        fate.step()
        write(self, *arguments)
        fate.step()

    def struck_board(self: SentryWriter, snapshot: SentrySnapshot) -> None:
        fate.step()
        board_write(self, snapshot)
        fate.step()

    monkeypatch.setattr(Database, "write", struck_write)
    monkeypatch.setattr(SentryWriter, "write", struck_board)
    return fate


def play(folder: Path, fate: Fate) -> list[dict[str, object]]:
    """Play the script with one crash; return the events that the broker received."""
    config = Config.model_validate(
        {
            "instance": "x" + uuid.uuid4().hex[:10],
            "cameras": {"hall": {"source": "synthetic"}},
            "sentry": KEYS,
            "run_dir": str(folder / "run"),
            "state_dir": str(folder / "state"),
        }
    )
    actor = Actor(config.instance, "hall")
    broker = Broker(fate)
    process: Process | None = None
    made: list[Process] = []
    try:
        for seen in [*SCRIPT, None]:
            if seen is not None:
                actor.show(seen)
            for _ in range(2):
                try:
                    if process is None:
                        process = Process(config, broker)
                        made.append(process)
                    process.turn()
                    break
                except Crash:
                    if process is not None:
                        let_go(process)
                        made.clear()
                    process = None
        assert process
        assert process.store.outbox == {}
        return broker.taken
    finally:
        for one in made:
            let_go(one)
        actor.close()
        unlink_instance(config.instance, ["hall"])


@pytest.mark.timeout(600)
def test_no_crash_point_loses_or_duplicates_an_event(tmp_path: Path, fate: Fate) -> None:
    kinds_expected = ["person_arrived", "person_left"] * 2
    undisturbed = play(tmp_path / "0", fate)
    assert [event["kind"] for event in undisturbed] == kinds_expected
    frames_expected = [event["frame_sequence"] for event in undisturbed]
    first, steps = 8, fate.steps  # the first steps are part of the start
    assert steps > 80
    for strike_at in range(first, steps + 1):
        fate.steps, fate.strike_at = 0, strike_at
        taken = play(tmp_path / str(strike_at), fate)
        distinct = {event["event_id"]: event for event in taken}
        where = f"crash at step {strike_at} of {steps}"
        assert [event["kind"] for event in distinct.values()] == kinds_expected, where
        assert len({event["visit_id"] for event in distinct.values()}) == 2, where
        # Even the frames of the decisions are the same: nothing was counted twice or lost.
        assert [event["frame_sequence"] for event in distinct.values()] == frames_expected, where
        assert len(taken) <= len(distinct) + 1, where
