"""The state database is locked or damaged while the controller is down: the alarm that waits in it is still sent."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

from support.faults import record
from support.mosquitto import free_port, listening, running_mosquitto
from support.sentry import EMPTY, PERSON, Actor, ControllerProcess, running_controller
from support.waiting import wait_for
from tridetr.controller.history import DATABASE
from tridetr.controller.store import Store


def leave_an_alarm(controller: ControllerProcess, actor: Actor) -> Path:
    """Leave an arrival in the outbox of a killed controller, whose broker is down; return the database."""
    actor.show_and_wait(EMPTY)
    actor.show_and_wait(PERSON, 8)
    controller.kill()
    return Path(controller.config["state_dir"]) / DATABASE


def inactive_now() -> str:
    """Return the times of a schedule that starts in six hours."""
    hour = (time.localtime().tm_hour + 6) % 24
    return f"{hour:02}:00-{hour:02}:30"


def test_a_database_that_a_backup_locks_at_the_start(tmp_path: Path) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(
            tmp_path, {"port": free_port()}, armed={"schedule": [inactive_now()]}
        ) as (controller, actor),
    ):
        database = leave_an_alarm(controller, actor)
        store = Store(database.parent, outbox_limit=10)
        store.keep_setting("armed/", json.dumps({"on": True, "unix_s": time.time()}))
        store.close()
        controller.config["mqtt"]["port"] = broker.port
        backup = sqlite3.connect(database, isolation_level=None)
        backup.execute("PRAGMA locking_mode=EXCLUSIVE")
        backup.execute("BEGIN EXCLUSIVE")
        controller.start()
        wait_for(lambda: "database is locked" in controller.log())
        wait_for(lambda: ear.last("node1/armed") == b"ON")
        assert "stored switches cannot be read: they count as on" in controller.log()
        # It still decides and raises alarms.

        def alarms() -> list[dict[str, Any]]:
            actor.show(PERSON)
            return ear.events()

        newer = wait_for(alarms, 30)[0]
        wait_for(lambda: b"locked" in (ear.last("node1/problem") or b""))
        backup.close()
        freed_s = time.monotonic()
        wait_for(lambda: len(ear.events()) == 3)
        record("database locked: its alarm sent", time.monotonic() - freed_s)
        older = ear.events()[1:]
        assert [event["kind"] for event in older] == ["person_arrived", "person_lost"]
        assert older[0]["visit_id"] == older[1]["visit_id"] != newer["visit_id"]
        wait_for(lambda: b'"disk":""' in (ear.last("node1/problem") or b""))
        assert ear.last("node1/armed") == b"ON"
        assert controller.terminate() == 0


def test_a_database_with_a_flipped_bit_costs_no_alarm(tmp_path: Path) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": free_port()}) as (controller, actor),
    ):
        database = leave_an_alarm(controller, actor)
        connection = sqlite3.connect(database)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        content = bytearray(database.read_bytes())
        content[content.find(b"person_arrived") + 3] ^= 0x80
        database.write_bytes(content)
        controller.config["mqtt"]["port"] = broker.port
        started_s = time.monotonic()
        controller.start()
        assert wait_for(ear.events)[0]["kind"] == "person_arrived"
        record("database damaged: its alarm sent", time.monotonic() - started_s)
        assert "moved to" in controller.log()
        actor.wait_decided(actor.show(PERSON))
        assert controller.terminate() == 0
