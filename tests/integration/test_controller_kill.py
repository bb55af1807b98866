"""kill -9 and outages of a controller and its broker: every event arrives, with one ID, in order."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from support.mosquitto import listening, running_mosquitto
from support.relay import relay_to
from support.sentry import EMPTY, PERSON, Actor, ControllerProcess, running_controller
from support.waiting import wait_for
from tridetr.controller.history import read_history
from tridetr.shm.boards import SentryState

VISIT = [PERSON] * 12 + [EMPTY] * 36
CONFIRMED, CLEARED = 5, 12 + 30  # the frames of VISIT that change the state
# A restart on a busy machine may take longer than the usual 5 s.
PATIENT = {"unknown_s": 60, "hold_s": 120}


def in_order_of_first_sight(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop repeated events by event ID, as a consumer would."""
    seen: dict[str, dict[str, Any]] = {}
    for event in events:
        seen.setdefault(event["event_id"], event)
    return list(seen.values())


def check_visits(events: list[dict[str, Any]], visits: int) -> None:
    """Check that each visit has exactly one arrival and one end, in order, and that repeats are identical."""
    first = in_order_of_first_sight(events)
    assert [event["kind"] for event in first] == ["person_arrived", "person_left"] * visits
    ids = [event["visit_id"] for event in first]
    assert ids[::2] == ids[1::2]
    assert len(set(ids)) == visits
    for event in events:
        original = next(e for e in first if e["event_id"] == event["event_id"])
        assert {**event, "published_at": ""} == {**original, "published_at": ""}


def kill_and_restart(controller: ControllerProcess) -> None:
    controller.kill()
    controller.start()


@pytest.mark.timeout(480)
@pytest.mark.parametrize("seed", [1, 2])
def test_kill_at_random_points_of_visits(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    visits = 3
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}, sentry=PATIENT) as (controller, actor),
    ):
        actor.show_and_wait(EMPTY, 2)
        kills = 0
        for _ in range(visits):
            # Around the frames that change the state, and at other times.
            targets = {
                CONFIRMED,
                CLEARED,
                chance.randrange(len(VISIT)),
                chance.randrange(len(VISIT)),
            }
            for index, seen in enumerate(VISIT):
                sequence = actor.show(seen)
                if index in targets:
                    # How far the controller gets with this frame
                    time.sleep(chance.uniform(0, 0.01))
                    kill_and_restart(controller)
                    kills += 1
                actor.wait_decided(sequence)
        wait_for(lambda: len(in_order_of_first_sight(ear.events())) >= 2 * visits)
        assert kills >= 2 * visits
        check_visits(ear.events(), visits)
        assert controller.terminate() == 0


def test_kill_while_the_broker_is_unreachable_loses_nothing(tmp_path: Path) -> None:
    with running_mosquitto(tmp_path / "broker") as broker:
        port = {"port": broker.port}
        with running_controller(tmp_path, port, sentry=PATIENT) as (controller, actor):
            actor.show_and_wait(EMPTY)
            broker.kill()
            for seen in VISIT * 2:
                actor.show_and_wait(seen)
            kill_and_restart(controller)
            actor.show_and_wait(EMPTY)
            broker.start()
            # No one was subscribed when they were sent, so check what the controller considers acknowledged.
            wait_for(lambda: "connected to the broker" in controller.log().rsplit("ended", 1)[-1])
            wait_for(lambda: _waiting(controller) == 0)
            kinds = [row.kind for row in read_history(Path(controller.config["state_dir"]))]
            assert kinds[::-1] == ["person_arrived", "person_left"] * 2


def test_network_outages_lose_and_duplicate_nothing(tmp_path: Path) -> None:
    """The connection is cut at any moment, including between an event and its acknowledgement."""
    chance = random.Random(7)
    visits = 8
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        relay_to(broker.port) as relay,
        running_controller(tmp_path, {"port": relay.port}) as (_, actor),
    ):
        wait_for(lambda: ear.last("/availability") == b"online")
        for _ in range(visits):
            for index, seen in enumerate(VISIT):
                sequence = actor.show(seen)
                if index in (CONFIRMED, CLEARED):
                    time.sleep(chance.uniform(0, 0.01))
                    relay.cut()
                actor.wait_decided(sequence)
                if chance.random() < 0.1:
                    relay.mend()
        relay.mend()
        wait_for(lambda: len(in_order_of_first_sight(ear.events())) == 2 * visits)
        check_visits(ear.events(), visits)
        wait_for(lambda: ear.last("/availability") == b"online")

        def all_quiet() -> bool:
            # Pictures must continue: without any, the camera is lost after five seconds.
            actor.show_and_wait(EMPTY)
            return ear.last("/hall/person") == b"OFF"

        wait_for(all_quiet)


def test_everything_is_republished_to_a_restarted_broker(tmp_path: Path) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        running_controller(tmp_path, {"port": broker.port}) as (_, actor),
    ):
        _arrive(actor)
        with listening(broker) as ear:
            wait_for(lambda: ear.last("/hall/person") == b"ON")
        broker.kill()
        broker.start()  # with an empty memory
        with listening(broker) as ear:
            wait_for(lambda: ear.last("/hall/person") == b"ON")
            wait_for(lambda: ear.last("/availability") == b"online")
            wait_for(lambda: ear.last("homeassistant/device/tridetr_node1/config"))


def test_frozen_broker_gets_everything_once_it_thaws(tmp_path: Path) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}) as (_, actor),
    ):
        wait_for(lambda: ear.last("/availability") == b"online")
        actor.show_and_wait(EMPTY)
        broker.freeze()
        try:
            for seen in VISIT * 12:  # more events than may be in flight
                actor.show_and_wait(seen)
        finally:
            broker.thaw()
        wait_for(lambda: len(in_order_of_first_sight(ear.events())) == 24)
        check_visits(ear.events(), 12)


def test_paused_controller_does_not_end_the_visit_immediately(tmp_path: Path) -> None:
    """SIGSTOP while a visit is about to end: the paused time was not watched, so ``clear_s`` starts over."""
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}, sentry={"unknown_s": 0.5}) as (
            controller,
            actor,
        ),
    ):
        _arrive(actor)
        actor.show_and_wait(EMPTY, 2)
        assert controller.process
        controller.process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        wait_for(lambda: time.monotonic() - stopped > 1.0)
        sequence = actor.show(EMPTY, seconds=10)
        controller.process.send_signal(signal.SIGCONT)
        actor.wait_decided(sequence)
        assert actor.state() in (SentryState.TRACKING, SentryState.UNKNOWN)
        for _ in range(40):
            actor.show_and_wait(EMPTY)
        wait_for(lambda: len(ear.events()) == 2)
        assert [event["kind"] for event in ear.events()] == ["person_arrived", "person_left"]


def test_downtime_longer_than_hold_ends_the_visit_and_alarms_again(tmp_path: Path) -> None:
    sentry = {"unknown_s": 0.2, "hold_s": 0.5}
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}, sentry=sentry) as (controller, actor),
    ):
        _arrive(actor)
        wait_for(lambda: ear.events())
        controller.kill()
        expired = actor.board().expires_monotonic_ns - 5_000_000_000 + 600_000_000
        wait_for(lambda: time.monotonic_ns() > expired)
        controller.start()
        # The first one may be repeated: killed before its acknowledgement was saved
        wait_for(lambda: len(in_order_of_first_sight(ear.events())) >= 2)
        _arrive(actor)
        wait_for(lambda: len(in_order_of_first_sight(ear.events())) >= 3)
        kinds = [event["kind"] for event in in_order_of_first_sight(ear.events())]
        assert kinds[:3] == ["person_arrived", "person_lost", "person_arrived"]


def test_removing_a_camera_ends_its_visit_and_clears_its_topics(tmp_path: Path) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}) as (controller, actor),
    ):
        _arrive(actor)
        wait_for(lambda: ear.events())
        controller.kill()
        controller.config["cameras"] = {"door": {"source": "synthetic"}}
        controller.start()
        wait_for(lambda: len(in_order_of_first_sight(ear.events())) == 2)
        assert ear.events()[-1]["kind"] == "person_lost"
        wait_for(lambda: ear.last("/hall/person") == b"")
        wait_for(lambda: ear.last("homeassistant/device/tridetr_node1/hall/config") == b"")


def test_a_second_controller_is_refused(tmp_path: Path) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        running_controller(tmp_path, {"port": broker.port}) as (controller, actor),
    ):
        actor.show_and_wait(EMPTY)
        other = ControllerProcess(tmp_path / "other", controller.config["mqtt"])
        other.folder.mkdir()
        other.config["state_dir"] = controller.config["state_dir"]
        other.start()
        assert other.process
        assert other.process.wait(20) == 2
        assert "another controller already uses" in other.log()


def _arrive(actor: Actor) -> None:
    actor.show_and_wait(EMPTY)
    actor.show_and_wait(PERSON, 8)


def _waiting(controller: ControllerProcess) -> int:
    import sqlite3

    database = Path(controller.config["state_dir"]) / "controller.db"
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM outbox").fetchone()[0])
    finally:
        connection.close()
