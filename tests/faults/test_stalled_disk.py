"""The disk of the state folder stops answering (a worn memory card, a network share): a frozen file system."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.faults import record
from support.mosquitto import listening, running_mosquitto
from support.sentry import EMPTY, PERSON, running_controller
from support.small_disks import Ext4Disk, mounted_ext4
from support.waiting import wait_for


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Ext4Disk]:
    with mounted_ext4(tmp_path) as disk:
        yield disk


def test_a_disk_that_stalls_delays_no_alarm_and_loses_nothing(
    tmp_path: Path, disk: Ext4Disk
) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(
            tmp_path / "node", {"port": broker.port}, state_dir=str(disk.folder / "state")
        ) as (controller, actor),
    ):
        wait_for(lambda: ear.last("/availability") == b"online")
        actor.show_and_wait(EMPTY)
        disk.freeze()
        frozen_s = time.monotonic()
        actor.show_and_wait(PERSON, 8)
        wait_for(lambda: len(ear.events()) == 1)
        record("state disk stalled: alarm", time.monotonic() - frozen_s)
        wait_for(lambda: b"does not answer" in (ear.last("node1/problem") or b""))
        record("state disk stalled: reported", time.monotonic() - frozen_s)
        assert b"does not answer" in (ear.last("/hall/status") or b"")
        actor.show_and_wait(EMPTY, 40)
        wait_for(lambda: len(ear.events()) == 2)
        disk.thaw()
        thawed_s = time.monotonic()
        wait_for(lambda: b'"disk":""' in (ear.last("node1/problem") or b""))
        record("state disk stalled: saved again", time.monotonic() - thawed_s)
        actor.show_and_wait(PERSON, 8)
        wait_for(lambda: len(ear.events()) == 3)
        controller.kill()

        # At the start
        disk.freeze()
        controller.start()
        wait_for(lambda: "does not answer" in controller.log())
        actor.show_and_wait(PERSON, 8)
        newer = wait_for(lambda: ear.events()[3:])[0]
        disk.thaw()
        wait_for(lambda: b'"disk":""' in (ear.last("node1/problem") or b""))
        wait_for(lambda: len(ear.events()) == 5)
        assert [event["kind"] for event in ear.events()] == [
            "person_arrived", "person_left", "person_arrived", "person_arrived", "person_lost",
        ]  # fmt: skip
        visits = [event["visit_id"] for event in ear.events()]
        assert visits[2] == visits[4] != newer["visit_id"]
        assert len({event["event_id"] for event in ear.events()}) == 5
        assert controller.terminate() == 0
