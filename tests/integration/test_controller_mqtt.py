"""The controller process with a real broker: the messages that other clients receive."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from support.mosquitto import listening, running_mosquitto
from support.sentry import EMPTY, PERSON, running_controller
from support.waiting import wait_for
from tridetr.controller.controller_process import REFRESH_S, TICK_S
from tridetr.controller.history import read_history
from tridetr.model_card import ModelInfo
from tridetr.served_model import write_served_model
from tridetr.shm.boards import CameraState, SentryMode, SentryState


def test_visit_is_published_once_with_all_fields(tmp_path: Path) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}) as (controller, actor),
    ):
        wait_for(lambda: ear.last("/availability") == b"online")
        assert ear.last("/hall/state") == b"unknown"
        assert ear.last("/hall/person") == b"unknown"
        actor.show_and_wait(EMPTY, 3)
        wait_for(lambda: ear.last("/hall/person") == b"OFF")
        assert (actor.state(), actor.mode()) == (SentryState.STANDBY, SentryMode.STANDBY)
        actor.show_and_wait(PERSON, 2)
        assert (actor.state(), actor.mode()) == (SentryState.VALIDATION, SentryMode.ALARMED)
        actor.show_and_wait(PERSON, 8)
        arrived = wait_for(ear.events)[0]
        wait_for(lambda: ear.last("/hall/person") == b"ON")
        assert actor.state() is SentryState.TRACKING
        assert actor.board().visit_id == arrived["visit_id"]
        actor.show_and_wait(EMPTY, 40)
        wait_for(lambda: len(ear.events()) == 2)
        wait_for(lambda: ear.last("/hall/person") == b"OFF")
        left = ear.events()[1]

        assert arrived["kind"] == "person_arrived"
        assert left["kind"] == "person_left"
        assert arrived["schema"] == left["schema"] == 1
        assert arrived["event_id"] == f"{arrived['visit_id']}:arrived"
        assert left["event_id"] == f"{arrived['visit_id']}:left"
        assert arrived["device"] == "node1"
        assert arrived["camera"] == "hall"
        # Frames 4 to 9 show a person; the sixth of them is 0.5 s after the first.
        assert arrived["frame_sequence"] == 9
        assert arrived["frame_number"] == 1009
        assert arrived["boxes"] == [
            {"class": "person", "score": 0.9, "xyxy": [100.0, 50.0, 200.0, 430.0]}
        ]
        times = [datetime.fromisoformat(arrived[key].replace("Z", "+00:00"))
                 for key in ("captured_at", "decided_at", "published_at")]  # fmt: skip
        assert times == sorted(times)
        assert all(one.qos == 1 and not one.retained for one in ear.heard
                   if one.topic.endswith("/events"))  # fmt: skip
        states = [payload.decode() for payload in ear.payloads("/hall/state")]
        assert [s for i, s in enumerate(states) if i == 0 or s != states[i - 1]] == [
            "unknown", "standby", "validation", "tracking", "standby",
        ]  # fmt: skip

        # A disk that takes more than two seconds delays no event
        state_dir = Path(controller.config["state_dir"])
        wait_for(lambda: len(read_history(state_dir)) == 2)
        rows = read_history(state_dir)
        kinds = [row.kind for row in rows]
        assert kinds == ["person_left", "person_arrived"]
        assert rows[0].seq == actor.board().last_event_rowid
        assert controller.terminate() == 0
        wait_for(lambda: ear.last("/availability") == b"offline")
        assert ear.last("/hall/person") == b"unknown", "a stopped node publishes unknown"


def test_late_subscribers_get_the_retained_state(tmp_path: Path) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}) as (_, actor),
    ):
        actor.show_and_wait(EMPTY, 2)
        actor.show_and_wait(PERSON, 8)
        wait_for(lambda: b"tracking" in (ear.last("/node1/hall/status") or b""))
        with listening(broker) as late:
            own = ("availability", "hall/status", "hall/person", "hall/state")
            wait_for(lambda: all(late.last(f"/node1/{topic}") for topic in own))
            retained = {one.topic: one for one in late.heard if one.retained}
            assert retained["tridetr/node1/hall/person"].payload == b"ON"
            assert retained["tridetr/node1/hall/state"].payload == b"tracking"
            assert retained["tridetr/node1/availability"].payload == b"online"
            status = retained["tridetr/node1/hall/status"].json()
            assert status["state"] == "tracking"
            assert status["camera"] == "live"
            assert status["visit_id"]
            assert status["store"] == "ok"
            assert not late.events(), "events are not retained"


def test_late_last_will_is_overwritten(tmp_path: Path) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}) as (controller, _),
    ):
        wait_for(lambda: ear.last("/availability") == b"online")
        controller.kill()
        wait_for(lambda: ear.last("/availability") == b"offline")
        controller.start()
        wait_for(lambda: ear.last("/availability") == b"online")
        # The broker notices a dead connection late and overwrites the new state with its last will.
        ear.client.publish("tridetr/node1/availability", "offline", qos=1, retain=True)
        wait_for(lambda: ear.payloads("/availability")[-2:] == [b"offline", b"online"])


def test_repeated_requests_are_answered_at_a_limited_rate(tmp_path: Path) -> None:
    """Anyone with an account at the broker could make the node publish as fast as they do."""
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}),
    ):
        wait_for(lambda: ear.last("/availability") == b"online")  # the last of the first messages
        before = len(ear.payloads("/hall/state")), ear.payloads("/availability").count(b"online")
        started_s = time.monotonic()
        for _ in range(20):
            ear.client.publish("tridetr/node1/command", "refresh", qos=1)
            ear.client.publish("homeassistant/status", "online", qos=1)
            ear.client.publish("tridetr/node1/availability", "offline", qos=1)
        wait_for(lambda: ear.payloads("/availability").count(b"offline") == 20)
        wait_for(lambda: ear.last("/availability") == b"online")
        wait_for(lambda: len(ear.payloads("/hall/state")) > before[0])
        seconds = time.monotonic() - started_s
        assert len(ear.payloads("/hall/state")) - before[0] <= 1 + seconds / REFRESH_S
        online = ear.payloads("/availability").count(b"online") - before[1]
        assert 1 <= online <= 2 + seconds / TICK_S  # `refresh` publishes it too


def test_home_assistant_discovery(tmp_path: Path) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}) as (_, actor),
    ):
        topic = "homeassistant/device/tridetr_node1/config"
        node = json.loads(wait_for(lambda: ear.last(topic)))
        hall_topic = "homeassistant/device/tridetr_node1/hall/config"
        hall = json.loads(wait_for(lambda: ear.last(hall_topic)))
        assert node["device"]["identifiers"] == ["tridetr_node1"]
        assert hall["device"]["via_device"] == "tridetr_node1"
        components = [*node["components"].values(), *hall["components"].values()]
        assert {c["platform"] for c in components} == {"binary_sensor", "sensor", "event", "switch"}
        assert len({c["unique_id"] for c in components}) == len(components)
        # Every topic in the discovery messages exists.
        actor.show_and_wait(EMPTY, 2)
        for component in components:
            if component["platform"] != "event":
                wait_for(lambda: ear.last(component["state_topic"]))
        assert hall["availability"][0]["topic"] == "tridetr/node1/availability"
        # Home Assistant has restarted: everything is published again.
        before = len(ear.payloads(topic))
        ear.client.publish("homeassistant/status", "online")
        wait_for(lambda: len(ear.payloads(topic)) > before)


def test_a_car_is_published_as_a_car(tmp_path: Path) -> None:
    car = np.array(PERSON)
    car["class_id"] = 3  # class ID in COCO
    car["x1"], car["x2"] = 200, 300
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(
            tmp_path, {"port": broker.port}, alarm={"classes": ["person", "car"]}
        ) as (_, actor),
    ):
        wait_for(lambda: ear.last("/availability") == b"online")
        actor.show_and_wait(car, 8)
        wait_for(lambda: ear.last("/hall/car") == b"ON")
        assert ear.last("/hall/person") == b"OFF"
        assert (actor.board().visit_class, wait_for(ear.events)[0]["kind"]) == (
            "car",
            "car_arrived",
        )
        actor.show_and_wait(np.concatenate((car, PERSON)), 8)
        wait_for(lambda: ear.last("/hall/person") == b"ON")
        actor.show_and_wait(EMPTY, 40)
        wait_for(lambda: len(ear.events()) == 3)
        arrived, joined, left = ear.events()
        assert (joined["kind"], joined["class"], joined["event_id"].rpartition(":")[2]) == (
            "person_joined",
            "person",
            "joined",
        )
        assert {box["class"] for box in joined["boxes"]} == {"person"}
        assert (left["kind"], left["class"]) == ("car_left", "car")
        assert {event["visit_id"] for event in ear.events()} == {arrived["visit_id"]}
        assert len({event["event_id"] for event in ear.events()}) == 3


def test_a_class_that_is_removed_during_its_visit(tmp_path: Path) -> None:
    """Its visit was resumed, and a person kept it open, without any event."""
    car = np.array(PERSON)
    car["class_id"] = 3  # class ID in COCO
    car["x1"], car["x2"] = 200, 300
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(
            tmp_path, {"port": broker.port}, alarm={"classes": ["person", "car"]}
        ) as (controller, actor),
    ):
        wait_for(lambda: ear.last("/availability") == b"online")
        actor.show_and_wait(car, 8)
        wait_for(lambda: ear.last("/hall/car") == b"ON")
        controller.kill()
        controller.config["alarm"] = {"classes": ["person"]}
        controller.start()
        actor.show_and_wait(car, 8)
        wait_for(lambda: ear.last("/hall/state") == b"standby")
        assert ear.last("/hall/person") == b"OFF"
        actor.show_and_wait(np.concatenate((car, PERSON)), 8)
        wait_for(lambda: ear.last("/hall/person") == b"ON")
        actor.show_and_wait(car, 40)
        wait_for(lambda: ear.last("/hall/person") == b"OFF")
        wait_for(lambda: ear.last("/hall/car") == b"")
        wait_for(lambda: len(ear.events()) == 4)
        kinds = ["car_arrived", "car_lost", "person_arrived", "person_left"]
        assert [event["kind"] for event in ear.events()] == kinds
        visits = [event["visit_id"] for event in ear.events()]
        assert (visits[0], visits[2]) == (visits[1], visits[3])
        assert visits[0] != visits[2]
        hall = json.loads(ear.last("homeassistant/device/tridetr_node1/hall/config") or b"{}")
        assert hall["components"]["car"].keys() == {"platform"}, "removed"


def test_problems_and_a_stopped_node_are_published(tmp_path: Path) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}) as (controller, actor),
    ):

        def problem(camera: str = "/hall") -> dict[str, object]:
            published: dict[str, object] = json.loads(ear.last(f"node1{camera}/problem") or b"{}")
            return published

        actor.show_and_wait(EMPTY, 2)
        wait_for(lambda: problem().get("problem") is False)
        assert problem("") == {
            "schema": 1, "problem": False, "detector": "", "outbox": "", "disk": "", "notify": "", "broker": "",
            "device": "",
        }  # fmt: skip
        for state in (CameraState.OFFLINE, CameraState.FROZEN, CameraState.BLIND):
            actor.be(state)
            wait_for(lambda: problem().get("camera") == state.name.lower())
        actor.be(CameraState.LIVE)
        wait_for(lambda: problem().get("camera") == "")
        served = ModelInfo("rfdetr_ort", "1", "onnxruntime", "cpu", "fp32", {"bicycle": 1})
        write_served_model(Path(controller.config["run_dir"]), served)
        wait_for(lambda: "'person'" in str(problem().get("classes")) or problem().get("classes"))
        assert "person" in str(problem()["classes"])
        controller.terminate()
        status = json.loads(ear.last("/hall/status") or b"{}")
        assert (status["state"], status["camera"], status["alarmed"]) == (
            "unknown",
            "unknown",
            False,
        )
        assert status["message"] == "the node was stopped"


def test_another_node_with_the_same_name_is_a_problem(tmp_path: Path) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}) as (_, actor),
    ):

        def problem() -> dict[str, object]:
            published: dict[str, object] = json.loads(ear.last("node1/problem") or b"{}")
            return published

        actor.show_and_wait(EMPTY, 2)
        wait_for(lambda: ear.last("node1/node") and problem().get("device") == "")
        message = json.loads(ear.last("node1/node") or b"")
        message["cameras"] |= {f"camera_{n}": message["cameras"]["hall"] for n in range(100)}
        message["started_at"] = "2020-01-01T00:00:00.000Z"
        ear.client.publish("tridetr/node1/node", json.dumps(message))
        wait_for(lambda: "mqtt.device" in str(problem().get("device")))
        for topic in ("hall/state", "availability", "node"):  # it is renamed
            ear.client.publish(f"tridetr/node1/{topic}", b"", retain=True)
        wait_for(lambda: ear.payloads("/hall/state")[-2:] == [b"", b"standby"])
        wait_for(lambda: ear.last("/availability") == b"online")


@pytest.mark.parametrize("junk", [b"", b"\xff\x00" * 40, b"x" * 100_000, b'{"command": 1}'])
def test_arbitrary_commands_are_handled(tmp_path: Path, junk: bytes) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}) as (controller, actor),
    ):
        wait_for(lambda: ear.last("/availability") == b"online")
        before = len(ear.payloads("/hall/state"))
        ear.client.publish("tridetr/node1/command", junk)
        ear.client.publish("tridetr/node1/command", "refresh")
        wait_for(lambda: len(ear.payloads("/hall/state")) > before)
        actor.show_and_wait(EMPTY)
        assert "Traceback" not in controller.log()


def test_camera_down_during_a_visit_holds_the_visit(tmp_path: Path) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}) as (_, actor),
    ):
        actor.show_and_wait(PERSON, 8)
        wait_for(lambda: ear.last("/hall/person") == b"ON")
        actor.be(CameraState.OFFLINE)
        wait_for(lambda: ear.last("/hall/person") == b"unknown")
        assert json.loads(ear.last("/hall/status") or b"{}")["camera"] == "offline"
        actor.be(CameraState.LIVE)
        actor.show_and_wait(PERSON, 2)
        wait_for(lambda: ear.last("/hall/person") == b"ON")
        actor.show_and_wait(EMPTY, 40)
        wait_for(lambda: ear.last("/hall/person") == b"OFF")
        wait_for(lambda: len(ear.events()) == 2)
        assert [event["kind"] for event in ear.events()] == ["person_arrived", "person_left"]


@pytest.mark.parametrize("state", [CameraState.FROZEN, CameraState.BLIND])
def test_frozen_or_blind_camera_does_not_end_a_visit(tmp_path: Path, state: CameraState) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}) as (_, actor),
    ):
        actor.show_and_wait(EMPTY, 2)
        wait_for(lambda: ear.last("/hall/state") == b"standby")
        actor.be(state)
        wait_for(lambda: ear.last("/hall/state") == b"unknown")
        actor.show_and_wait(EMPTY, 5)  # the same picture again
        assert actor.state() is SentryState.UNKNOWN
        actor.be(CameraState.LIVE)
        wait_for(lambda: actor.show(EMPTY) and ear.last("/hall/state") == b"standby")


def test_visit_whose_end_is_not_seen_is_lost(tmp_path: Path) -> None:
    sentry = {"unknown_s": 0.5, "hold_s": 1.5}
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}, sentry=sentry) as (controller, actor),
    ):
        actor.show_and_wait(PERSON, 8)
        wait_for(lambda: len(ear.events()) == 2)
        assert [event["kind"] for event in ear.events()] == ["person_arrived", "person_lost"]
        lost = ear.events()[1]
        assert lost["frame_number"] is None
        assert lost["boxes"] == []
        assert ear.last("/hall/person") == b"unknown"
        # A person seen afterwards is a new visit.
        actor.show_and_wait(PERSON, 8)
        wait_for(lambda: len(ear.events()) == 3)
        assert ear.events()[2]["visit_id"] != lost["visit_id"]
        kinds = [row.kind for row in read_history(Path(controller.config["state_dir"]))]
        assert kinds[::-1][:4] == ["person_arrived", "camera_lost", "person_lost", "camera_back"]


def test_lossless_source_is_not_silent(tmp_path: Path) -> None:
    """The time of a lossless file stops while the detector is busy, which must not count as silence."""
    cameras = {"hall": {"source": "film.mp4", "realtime": False}}
    sentry = {"unknown_s": 0.4}
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        running_controller(tmp_path, {"port": broker.port}, cameras=cameras, sentry=sentry) as (
            _,
            actor,
        ),
    ):
        actor.show_and_wait(EMPTY)
        actor.show_and_wait(PERSON, 2)
        actor.be(CameraState.LIVE)
        renewed = actor.board().expires_monotonic_ns
        # The board is renewed once a second, so two of them are well over unknown_s.
        wait_for(lambda: actor.board().expires_monotonic_ns > renewed + 2 * 10**9)
        assert actor.state() is SentryState.VALIDATION
        actor.be(CameraState.ENDED)
        wait_for(lambda: actor.state() is SentryState.UNKNOWN)
