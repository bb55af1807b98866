"""Notification targets that fail, stall or redirect, and a controller that is killed: each visit arrives once."""

from __future__ import annotations

import base64
import hmac
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.mosquitto import listening, running_mosquitto
from support.sentry import EMPTY, PERSON, Actor, ControllerProcess, running_controller
from support.waiting import wait_for
from support.webhooks import WebhookServer, running_webhooks
from tridetr.recorder.archive import Archive, VisitFacts
from tridetr.shm.detections import DETECTION_DTYPE

CAR = np.array([(300, 200, 500, 300, 0.95, 3, 0)], DETECTION_DTYPE)
KEY = bytes(range(32))
PATIENT = {"unknown_s": 60, "hold_s": 120}
BOTH = ["arrived", "left"]


@pytest.fixture
def server() -> Iterator[WebhookServer]:
    with running_webhooks() as server:
        yield server


def target(folder: Path, server: WebhookServer, name: str = "hook", **keys: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    url = folder / f"{name}-url"
    url.write_text(server.url + "\n")
    secret = folder / f"{name}-secret"
    secret.write_text("whsec_" + base64.b64encode(KEY).decode())
    signed = {"secret_file": str(secret)} if keys.get("kind", "webhook") == "webhook" else {}
    return {"name": name, "kind": "webhook", "url_file": str(url), "events": BOTH, **signed, **keys}


def visit(actor: Actor) -> None:
    for seen in [PERSON] * 8 + [EMPTY] * 36:
        actor.show_and_wait(seen)


def assert_nothing_leaked(controller: ControllerProcess) -> None:
    log = (controller.folder / "controller.log").read_text()
    assert "s3cret" not in log
    assert base64.b64encode(KEY).decode() not in log


@pytest.mark.long_faults
@pytest.mark.timeout(300)
def test_failing_and_stalling_targets_delay_only_themselves(
    tmp_path: Path, server: WebhookServer
) -> None:
    with (
        running_webhooks() as stalling,
        running_webhooks() as failing,
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(
            tmp_path,
            {"port": broker.port},
            sentry=PATIENT,
            notify=[
                target(tmp_path, stalling, "stalling"),
                target(tmp_path, failing, "failing"),
                target(tmp_path, server, "good"),
            ],
        ) as (controller, actor),
    ):
        stalling.mode, failing.mode = "stall", "503"
        for number in (1, 2):
            visit(actor)
            wait_for(lambda: len(server.taken) == 2 * number, 30)
            wait_for(lambda: len(ear.events()) == 2 * number, 30)
        assert server.ids() == [event["event_id"] for event in ear.events()]
        assert stalling.asked
        assert not stalling.taken
        failing.mode = "ok"
        wait_for(lambda: failing.ids() == server.ids(), 60)
        # The request that stalled is given up after 10 s and repeated, with the same ID.
        stalling.mode = "ok"
        wait_for(lambda: stalling.ids() == server.ids(), 60)
        assert len(stalling.taken) == 4
        assert stalling.asked[0].headers["webhook-id"] == stalling.taken[0].headers["webhook-id"]
        assert controller.terminate() == 0
        assert_nothing_leaked(controller)


def test_what_a_webhook_receives(tmp_path: Path, server: WebhookServer) -> None:
    with running_controller(
        tmp_path, {"port": 1}, sentry=PATIENT, notify=[target(tmp_path, server)]
    ) as (_, actor):
        visit(actor)  # the broker is down: that delays no notification
        wait_for(lambda: len(server.taken) == 2, 30)
    arrived, left = server.taken
    assert arrived.path == "/hook/s3cret-path?token=s3cret-query"
    content = arrived.json()
    assert content["title"] == "Person at hall"
    assert content["event"]["kind"] == "person_arrived"
    assert content["event"]["event_id"] == arrived.headers["webhook-id"]
    assert arrived.headers["idempotency-key"] == f'"{content["event"]["event_id"]}"'
    assert left.json()["title"] == "Person has left hall"
    for request in server.taken:
        stamp = request.headers["webhook-timestamp"]
        assert abs(int(stamp) - time.time()) < 300
        signed = f"{request.headers['webhook-id']}.{stamp}.".encode() + request.body
        expected = base64.b64encode(hmac.digest(KEY, signed, "sha256")).decode()
        assert request.headers["webhook-signature"] == f"v1,{expected}"


def test_the_picture_is_sent_with_the_notification(tmp_path: Path, server: WebhookServer) -> None:
    """The recorder's archive is filled by the test, after the event: the notification waits a moment."""
    jpeg = b"\xff\xd8\xff a picture"
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(
            tmp_path,
            {"port": broker.port, "pictures": True},
            sentry=PATIENT,
            gateway={"host": "10.0.0.7"},
            evidence={},
            notify=[target(tmp_path, server)],
        ) as (_, actor),
        Archive(tmp_path / "state/evidence", keep_days=1, max_mib=100) as archive,
    ):
        actor.show_and_wait(PERSON, 8)
        visit_id = actor.board().visit_id
        now = time.time_ns()
        facts = VisitFacts(visit_id, "hall", "person", now, now)
        archive.save_picture(facts, (b"x" * 300_000, jpeg), 0.9, {})
        wait_for(lambda: server.taken, 30)
        content = server.taken[0].json()
        assert base64.b64decode(content["picture"]["base64"]) == b"x" * 300_000
        assert content["link"] == f"http://10.0.0.7:8080/events#{visit_id}"
        # Brokers reject large messages, so the crop is sent.
        wait_for(lambda: ear.last("/hall/picture") == jpeg)
        archive.save_picture(facts, (b"better", jpeg), 0.95, {})
        wait_for(lambda: ear.last("/hall/picture") == b"better")
        broker.kill()
        broker.start()  # with an empty memory
        wait_for(lambda: ear.payloads("/hall/picture").count(b"better") == 2, 60)


def test_a_redirect_is_not_followed(tmp_path: Path, server: WebhookServer) -> None:
    with running_webhooks() as thief:
        server.mode, server.location = "307", thief.url
        with running_controller(
            tmp_path, {"port": 1}, sentry=PATIENT, notify=[target(tmp_path, server)]
        ) as (controller, actor):
            visit(actor)
            wait_for(lambda: len(server.asked) >= 2, 30)
            wait_for(lambda: "a redirect, which is not followed" in controller.log())
            assert not thief.asked
            server.mode, server.location = "ok", ""
            wait_for(lambda: len(server.ids()) == 2, 60)
            assert_nothing_leaked(controller)


@pytest.mark.long_faults
@pytest.mark.timeout(300)
def test_a_message_that_is_rejected_repeatedly_does_not_block_others(
    tmp_path: Path, server: WebhookServer
) -> None:
    server.mode = "422"
    with running_controller(
        tmp_path, {"port": 1}, sentry=PATIENT, notify=[target(tmp_path, server)]
    ) as (controller, actor):
        visit(actor)
        wait_for(lambda: "was refused 5 times and is dropped" in controller.log(), 120)
        server.mode = "ok"
        wait_for(lambda: len(server.taken) == 1, 60)
        assert server.taken[0].json()["event"]["kind"] == "person_left"


@pytest.mark.long_faults
@pytest.mark.timeout(480)
def test_kill_at_any_moment_notifies_each_visit_once_per_target(
    tmp_path: Path, server: WebhookServer
) -> None:
    chance = random.Random(4)
    with (
        running_webhooks() as other,
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(
            tmp_path,
            {"port": broker.port},
            sentry=PATIENT,
            notify=[target(tmp_path, server, "first"), target(tmp_path, other, "second")],
        ) as (controller, actor),
    ):
        actor.show_and_wait(EMPTY, 2)
        course = [PERSON] * 8 + [EMPTY] * 36
        for number in range(3):
            other.mode = "503" if number < 2 else "ok"  # receives all visits in the end
            kills = {5, 39, chance.randrange(len(course))}
            for index, seen in enumerate(course):
                sequence = actor.show(seen)
                if index in kills:
                    time.sleep(chance.uniform(0, 0.05))  # how far it gets
                    controller.kill()
                    controller.start()
                actor.wait_decided(sequence)
        wait_for(lambda: len({event["event_id"] for event in ear.events()}) == 6, 60)
        published = list(dict.fromkeys(event["event_id"] for event in ear.events()))
        wait_for(lambda: server.ids() == published, 60, f"{server.ids()} {published}")
        wait_for(lambda: other.ids() == published, 120, f"{other.ids()} {published}")
        assert_nothing_leaked(controller)


def test_only_selected_events_are_notified_and_only_while_armed(
    tmp_path: Path, server: WebhookServer
) -> None:
    """Arming decides which visits are notified; MQTT gets every visit."""
    with (
        running_webhooks() as always,
        running_webhooks() as cars,
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(
            tmp_path,
            {"port": broker.port},
            sentry=PATIENT,
            notify=[
                target(tmp_path, server, "armed", events=["arrived"]),
                target(tmp_path, always, "always", when="always"),
                target(tmp_path, cars, "cars", classes=["car"]),
            ],
        ) as (controller, actor),
    ):
        wait_for(lambda: ear.last("node1/hall/armed") == b"ON")
        assert ear.last("node1/armed") == b"ON"
        ear.client.publish("tridetr/node1/hall/armed/set", "OFF")
        wait_for(lambda: ear.last("node1/hall/armed") == b"OFF")
        visit(actor)
        wait_for(lambda: len(always.taken) == 2, 30)
        controller.kill()  # the switch is kept
        controller.start()
        visit(actor)
        wait_for(lambda: len(always.taken) == 4, 30)
        ear.client.publish("tridetr/node1/hall/armed/set", "ON")
        wait_for(lambda: ear.last("node1/hall/armed") == b"ON")
        ear.client.publish("tridetr/node1/armed/set", "OFF", retain=True)  # by mistake
        ear.client.publish("tridetr/node1/armed/set", "", retain=True)
        wait_for(lambda: ear.last("node1/armed") == b"OFF")
        ear.client.publish("tridetr/node1/armed/set", "ON")
        wait_for(lambda: ear.last("node1/armed") == b"ON")
        visit(actor)
        wait_for(lambda: len(always.taken) == 6, 30)
        wait_for(lambda: len(server.taken) == 1, 30)
        assert server.ids() == always.ids()[4:5]
        assert not cars.asked
        assert (
            len({event["event_id"] for event in ear.events()}) == 6
        )  # one may be repeated after the kill


@pytest.mark.timeout(120)
def test_person_who_arrives_at_a_parked_car_is_notified(
    tmp_path: Path, server: WebhookServer
) -> None:
    """The car keeps its visit open, so the person opens none, but must still cause a notification."""
    car, both = CAR, np.concatenate((CAR, PERSON))
    with (
        running_webhooks() as other,
        running_controller(
            tmp_path,
            {"port": 1},
            sentry=PATIENT,
            alarm={"classes": ["person", "car"]},
            notify=[
                target(tmp_path, server, "people", classes=["person"]),
                target(tmp_path, other, "all"),
            ],
        ) as (_, actor),
    ):
        actor.show_and_wait(car, 10)
        wait_for(lambda: len(other.taken) == 1, 30)
        assert not server.taken
        actor.show_and_wait(both, 10)
        wait_for(lambda: len(server.taken) == 1, 30)
        sent = server.taken[0].json()
        assert (sent["event"]["kind"], sent["title"]) == ("person_joined", "Person at hall")
        assert {box["class"] for box in sent["event"]["boxes"]} == {"person"}
        assert sent["event"]["visit_id"] == other.taken[0].json()["event"]["visit_id"]
        actor.show_and_wait(car, 60)
        actor.show_and_wait(both, 10)
        actor.show_and_wait(EMPTY, 40)
        wait_for(lambda: len(other.taken) == 2, 30)
        assert [request.json()["event"]["kind"] for request in other.taken] == [
            "car_arrived", "car_left",
        ]  # fmt: skip
        assert len(server.taken) == 1
