"""The controller process with brokers that refuse it, or messages of it, or that were away."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np

from support.mosquitto import Mosquitto, free_port, listening, make_certificates, running_mosquitto
from support.relay import relay_to
from support.sentry import EMPTY, PERSON, Actor, running_controller
from support.waiting import wait_for
from tridetr.controller.store import Store


def test_removed_topics_are_cleared_after_an_outage(tmp_path: Path) -> None:
    """A lost connection must not leave stale retained messages behind."""
    two = {name: {"source": "synthetic"} for name in ("hall", "attic")}
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        running_controller(tmp_path, {"port": broker.port}, cameras=two) as (controller, _),
    ):
        with listening(broker) as ear:
            wait_for(lambda: ear.last("/attic/problem"))
            wait_for(lambda: ear.last("homeassistant/device/tridetr_node1/attic/config"))
        controller.terminate()
        controller.config |= {"cameras": {"hall": two["hall"]}, "alarm": {"classes": ["car"]}}
        controller.config["mqtt"] |= {
            "port": free_port()
        }  # no broker there: nothing is acknowledged
        controller.start()
        wait_for(lambda: "cannot be reached" in controller.log())
        controller.kill()
        controller.config["mqtt"] |= {"port": broker.port}
        controller.start()
        wait_for(
            lambda: "connected to the broker" in controller.log().rsplit("cannot be reached", 1)[-1]
        )
        gone = {"tridetr/node1/hall/person", "homeassistant/device/tridetr_node1/attic/config"} | {
            f"tridetr/node1/attic/{name}" for name in ("state", "person", "status", "problem")
        }

        def retained() -> dict[str, bytes] | None:
            with listening(broker) as late:
                wait_for(lambda: late.last("/availability"))
                wait_for(lambda: late.last("/hall/car"))
                found = {one.topic: one.payload for one in late.heard}
            return None if gone & found.keys() else found

        found = wait_for(retained)
        assert found["tridetr/node1/hall/car"] == b"unknown"
        hall = json.loads(found["homeassistant/device/tridetr_node1/hall/config"])
        assert "unique_id" in hall["components"]["car"]
        assert hall["components"].get("person", {}).keys() <= {"platform"}


def test_events_do_not_wait_behind_topics_that_the_broker_forbids(tmp_path: Path) -> None:
    """After a rename, the topics of the old name were cleared first on each connection.

    A broker that closes the connection on a message to a forbidden topic then never got an event. mosquitto does so
    with topics of more than 200 levels.
    """
    forbidden = [f"{'a/' * 210}hall/{name}" for name in ("state", "person", "status")]
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        relay_to(broker.port) as relay,
        running_controller(tmp_path, {"port": relay.port}, start=False) as (controller, actor),
    ):
        store = Store(tmp_path / "state", outbox_limit=10)
        allowed = "homeassistant/device/tridetr_old/config"
        store.remember({**dict.fromkeys(forbidden, ""), allowed: '{"problem": "binary_sensor"}'})
        store.close()
        ear.client.publish(allowed, "{}", qos=1, retain=True)
        relay.cut()
        controller.start()
        actor.show_and_wait(EMPTY, 2)
        actor.show_and_wait(PERSON, 8)
        wait_for(lambda: "connection to the broker" in controller.log())
        relay.mend()
        wait_for(ear.events)
        wait_for(lambda: "ended when an earlier topic was cleared" in controller.log())
        assert ear.last(allowed) == b"", "what is allowed is cleared first"
        actor.show_and_wait(EMPTY, 80)
        wait_for(lambda: len(ear.events()) == 2)
        assert [event["kind"] for event in ear.events()] == ["person_arrived", "person_left"]
        assert controller.log().count("connected to the broker") == 2
        assert ear.last("/availability") == b"online"
        assert controller.terminate() == 0
    store = Store(tmp_path / "state", outbox_limit=10)
    assert set(forbidden) <= store.retained.keys()
    assert allowed not in store.retained
    store.close()


def test_events_do_not_wait_behind_messages_that_are_too_large_for_the_broker(
    tmp_path: Path,
) -> None:
    """A broker that closes the connection at the discovery message never got an event."""
    cameras = {name: {"source": "synthetic"} for name in ("hall", "attic", "a" * 32)}
    with (
        running_mosquitto(tmp_path / "broker", largest=1500) as broker,
        listening(broker) as ear,
        relay_to(broker.port) as relay,
        running_controller(tmp_path, {"port": relay.port}, cameras=cameras, start=False) as (
            controller,
            actor,
        ),
    ):
        relay.cut()
        controller.start()
        crowd = np.repeat(PERSON, 40)
        crowd["y2"] += np.arange(40)
        actor.show_and_wait(EMPTY, 2)
        actor.show_and_wait(crowd, 8)
        wait_for(lambda: "connection to the broker" in controller.log())
        relay.mend()
        wait_for(ear.events, 60)
        assert len(ear.events()[0]["boxes"]) == 1
        actor.show_and_wait(EMPTY, 80)
        wait_for(lambda: len(ear.events()) == 2)
        topic = "homeassistant/device/tridetr_node1/hall/config"
        wait_for(lambda: f"while {topic} (" in controller.log(), 60)
        wait_for(lambda: "max_packet_size" in str(ear.last("node1/problem")))
        wait_for(lambda: ear.last("/availability") == b"online")
        wait_for(lambda: ear.last("node1/node"))
        ends = controller.log().count("connected to the broker")
        assert ends <= 6
        actor.show_and_wait(PERSON, 8)
        wait_for(lambda: len(ear.events()) == 3)
        assert ear.last(topic) is None
        assert controller.log().count("connected to the broker") == ends, "the connection lasts"
        broker.kill()
        broker.lift_limit()
        broker.start()
        names = ["", *(f"/{camera}" for camera in cameras)]
        discovery = [f"homeassistant/device/tridetr_node1{name}/config" for name in names]
        wait_for(lambda: all(ear.last(topic) for topic in discovery), 60)
        wait_for(lambda: b'"broker":""' in (ear.last("node1/problem") or b""))


def test_events_of_other_cameras_do_not_wait_behind_a_topic_that_the_broker_refuses(
    tmp_path: Path,
) -> None:
    """An ACL without the topic of a new camera blocked the events of all cameras, if the broker closes connections."""
    topic = "tridetr/node1/yard/events"
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        relay_to(broker.port) as relay,
        running_controller(
            tmp_path,
            {"port": relay.port},
            cameras={name: {"source": "synthetic"} for name in ("hall", "yard")},
        ) as (controller, hall),
        closing(Actor(controller.instance, "yard")) as yard,
    ):
        relay.forbidden = len(topic).to_bytes(2, "big") + topic.encode()  # not where JSON names it
        wait_for(lambda: ear.last("/availability") == b"online")
        for actor in (yard, hall):
            actor.show_and_wait(EMPTY, 2)
            actor.show_and_wait(PERSON, 8)
        wait_for(ear.events, 60)
        hall.show_and_wait(EMPTY, 40)
        wait_for(lambda: len(ear.events()) == 2)
        assert [event["camera"] for event in ear.events()] == ["hall", "hall"]
        wait_for(lambda: f"is published to {topic} (an ACL?)" in str(ear.last("node1/problem")))
        assert controller.log().count("connected to the broker") == 5
        relay.forbidden = b""
        yard.show_and_wait(EMPTY, 40)
        assert controller.terminate() == 0
        assert len(ear.events()) == 2
        controller.start()
        wait_for(lambda: len(ear.events()) == 4)
        kinds = [event["kind"] for event in ear.events() if event["camera"] == "yard"]
        assert kinds == ["person_arrived", "person_left"]
        wait_for(lambda: b'"broker":""' in (ear.last("node1/problem") or b""))


def test_events_do_not_wait_for_a_subscription_that_the_broker_refuses(tmp_path: Path) -> None:
    """A broker that ends the connection on it never got an event, and the log blamed the size of messages."""
    topic = "tridetr/node1/hall/armed/set"
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        relay_to(broker.port) as relay,
        running_controller(tmp_path, {"port": relay.port}, start=False) as (controller, actor),
    ):
        relay.forbidden = topic.encode() + b"\x01"  # the QoS of a subscription
        controller.start()
        actor.show_and_wait(EMPTY, 2)
        actor.show_and_wait(PERSON, 8)
        wait_for(ear.events, 60)
        wait_for(lambda: "answered the subscription to" in str(ear.last("node1/problem")))
        assert topic in str(ear.last("node1/problem"))
        assert "best box only" not in controller.log()
        assert "size of messages" not in controller.log()
        relay.forbidden = b""
        controller.terminate()
        controller.start()
        wait_for(lambda: b'"broker":""' in (ear.last("node1/problem") or b""))


def test_tls_and_password(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path / "pki")
    password = tmp_path / "password"
    password.write_text("s3cret\n")
    account = ("node", "s3cret")
    settings = {
        "username": "node",
        "password_file": str(password),
        "tls": {"ca_file": str(certificates.ca)},
    }
    with (
        running_mosquitto(tmp_path / "broker", tls=certificates, user=account) as broker,
        listening(broker, ca=certificates.ca, user=account) as ear,
        running_controller(tmp_path, {"port": broker.port, **settings}) as (controller, actor),
    ):
        actor.show_and_wait(PERSON, 8)
        assert wait_for(ear.events)[0]["kind"] == "person_arrived"
        assert "s3cret" not in controller.log()


def _tries(broker: Mosquitto) -> int:
    """Return the number of connection attempts; mosquitto logs them in two ways, depending on the handshake."""
    log = broker.log()
    return log.count("New connection") + log.count("Client connection from")


def test_wrong_certificate_or_password_is_logged_once(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path / "pki")
    other = make_certificates(tmp_path / "other")
    account = ("node", "s3cret")
    password = tmp_path / "password.txt"
    password.write_text("wrong")
    with running_mosquitto(tmp_path / "broker", tls=certificates, user=account) as broker:
        for name, ca, expected in (
            ("ca", other.ca, "certificate verify failed"),
            ("password", certificates.ca, "refuses the connection"),
        ):
            settings = {
                "port": broker.port,
                "username": "node",
                "password_file": str(password),
                "tls": {"ca_file": str(ca)},
            }
            before = _tries(broker)
            with running_controller(tmp_path / name, settings) as (controller, actor):
                wait_for(lambda: expected in controller.log())
                actor.show_and_wait(EMPTY)  # decisions continue without a broker
                # The first three tries take about 3 s; each later pause is twice as long.
                wait_for(lambda: _tries(broker) >= before + 3, 60)
                assert controller.log().count(expected) == 1


def test_unusable_certificates_cost_the_connection_only(tmp_path: Path) -> None:
    """The controller ended, again and again: no decision, and no notification."""
    certificates = make_certificates(tmp_path / "pki")
    ca = tmp_path / "ca.pem"
    ca.write_text("not a certificate")
    with (
        running_mosquitto(tmp_path / "broker", tls=certificates) as broker,
        listening(broker, ca=certificates.ca) as ear,
        running_controller(tmp_path, {"port": broker.port, "tls": {"ca_file": str(ca)}}) as (
            controller,
            actor,
        ),
    ):
        expected = "ca.pem does not contain a PEM certificate"
        wait_for(lambda: expected in controller.log())
        actor.show_and_wait(PERSON, 8)
        ca.write_bytes(certificates.ca.read_bytes())
        assert wait_for(ear.events)[0]["kind"] == "person_arrived"
        assert controller.log().count(expected) == 1
