"""Payloads and topics: pure builders."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tridetr.config import Config, SentrySection
from tridetr.config.node_sections import GatewaySection
from tridetr.controller import problems
from tridetr.controller.discovery import (
    camera_message,
    entities_of,
    first_entities,
    node_message,
    viewer_address,
    with_removed,
)
from tridetr.controller.payloads import (
    MAX_BOXES,
    Box,
    CameraFacts,
    FrameFacts,
    event,
    is_refresh,
    iso,
    node,
    presence,
    published,
    status,
)
from tridetr.controller.problems import CameraProblem
from tridetr.controller.state_machine import Memory, Result, Silence, State, Transition
from tridetr.controller.topics import Topics, default_device, device_name, topic_level
from tridetr.controller.visits import Record, VisitEvent, decide

SECOND = 1_000_000_000
NOON = 1_700_000_000 * SECOND
TOPICS = Topics("tridetr", "node1", "homeassistant")


def test_an_event_has_its_id_times_and_boxes() -> None:
    happened = VisitEvent(Transition.LEFT, "v1", NOON, NOON + 12 * SECOND + 345_000_000)
    frame = FrameFacts(77, 70, NOON, 640, 480, "m:1", (Box("person", 0.9, (1, 2, 3, 4)),))
    payload = event(happened, device="d", camera="c", frame=frame, decided_unix_ns=NOON + 1)
    assert payload["event_id"] == "v1:left"
    assert payload["kind"] == "person_left"
    assert payload["duration_s"] == 12.345
    assert payload["captured_at"] == "2023-11-14T22:13:20.000Z"
    assert payload["score"] == 0.9
    assert payload["frame_size"] == [640, 480]
    text = published(json.dumps(payload), NOON + SECOND)
    assert json.loads(text) == {**payload, "published_at": "2023-11-14T22:13:21.000Z"}


def test_event_without_a_frame_and_with_too_many_boxes() -> None:
    happened = VisitEvent(Transition.LOST, "v1", NOON, NOON)
    payload = event(happened, device="d", camera="c", frame=None, decided_unix_ns=NOON)
    assert (payload["captured_at"], payload["frame_number"], payload["boxes"]) == (None, None, [])
    crowd = (Box("person", 0.9, (1, 2, 3, 4)),) * 300
    frame = FrameFacts(1, 1, NOON, 640, 480, "m:1", crowd)
    payload = event(happened, device="d", camera="c", frame=frame, decided_unix_ns=NOON)
    assert len(payload["boxes"]) == MAX_BOXES


@pytest.mark.parametrize(
    ("state", "seen", "expected"),
    [
        ("UNKNOWN", True, "unknown"),
        ("STANDBY", False, "OFF"),
        ("VALIDATION", True, "OFF"),
        ("TRACKING", True, "ON"),
        ("TRACKING", False, "OFF"),
    ],
)
def test_presence_is_on_while_a_visit_is_tracked(state: str, seen: bool, expected: str) -> None:
    assert presence(State[state], seen) == expected


def test_an_event_names_the_class_that_alarmed() -> None:
    """A car was published as a person."""
    keys = SentrySection(confirm_frames=1, confirm_s=0)
    seen, classes = Result(True, 1), ["traffic light", "car"]
    record, event_ = decide(
        Record(), seen, keys, at_unix_ns=NOON, new_visit_id=lambda: "v", classes=classes
    )
    assert event_
    assert (event_.kind, event_.class_name) == ("traffic_light_arrived", "traffic light")
    assert record.visit_classes == ("traffic light", "car")
    record, nothing = decide(
        record, seen, keys, at_unix_ns=NOON, new_visit_id=str, classes=["person", "car"]
    )
    assert (record.visit_classes, nothing) == (("traffic light", "car", "person"), None)
    record = Record.from_json(record.to_json())
    record, _ = decide(record, Silence(1e9), keys, at_unix_ns=NOON, new_visit_id=str)
    record, event_ = decide(record, Silence(1e9), keys, at_unix_ns=NOON, new_visit_id=str)
    assert event_
    assert event_.kind == "traffic_light_lost"
    assert record.visit_classes == ()


@pytest.mark.parametrize(
    ("name", "level"),
    [("person", "person"), ("traffic light", "traffic_light"), ("a/b+#", "a_b__"),
     ("人", "_u4eba"), ("state", "state_seen"), ("camera", "camera_seen")],
)  # fmt: skip
def test_a_class_is_one_topic_level_that_means_nothing_else(name: str, level: str) -> None:
    assert topic_level(name) == level


def test_status_is_json_with_nulls_where_nothing_is_known() -> None:
    facts = CameraFacts("unknown", False, 0, "", "offline", "rtsp", "gone", None, None, 3, "ok")
    payload = json.loads(status(facts, NOON))
    assert payload["schema"] == 1
    assert (payload["state_since"], payload["visit_id"], payload["last_frame_age_s"]) == (None,) * 3
    assert payload["events_waiting"] == 3


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"refresh", True),
        (b" REFRESH\n", True),
        (b"", False),
        (b"refreshh", False),
        (b"\xff", False),
        (b" " * 300 + b"refresh", False),
    ],
)
def test_only_refresh_is_a_command(payload: bytes, expected: bool) -> None:
    assert is_refresh(payload) is expected


@given(st.binary(max_size=1000))
def test_any_command_is_survived(payload: bytes) -> None:
    assert is_refresh(payload) in (False, True)


@pytest.mark.parametrize(
    ("ns", "text"), [(0, None), (-5, None), (10**30, None), (1, "1970-01-01T00:00:00.000Z")]
)
def test_times_are_written_as_utc_with_milliseconds(ns: int, text: str | None) -> None:
    assert iso(ns) == text


@pytest.mark.parametrize(
    ("host", "instance", "device"),
    [
        ("kitchen.lan", "default", "kitchen"),
        ("kitchen", "demo", "kitchen-demo"),
        ("", "default", "node"),
        ("my host/#+", "default", "my-host"),
        ("x" * 200, "default", "x" * 48),
    ],
)
def test_default_device_is_one_topic_level(host: str, instance: str, device: str) -> None:
    assert default_device(host, instance) == device


def test_the_device_is_named_by_the_configuration_the_environment_or_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = Config.model_validate({"cameras": {"hall": {"source": "synthetic"}}})
    monkeypatch.setenv("TRIDETR_MQTT_DEVICE", "edge-7.site.example")
    assert device_name(config) == "edge-7-site-example"
    monkeypatch.delenv("TRIDETR_MQTT_DEVICE")
    monkeypatch.setattr("socket.gethostname", lambda: "porch.lan")
    assert device_name(config) == "porch"
    named = Config.model_validate(
        {"cameras": {"hall": {"source": "synthetic"}}, "mqtt": {"device": "garage"}}
    )
    assert device_name(named) == "garage"


def test_topics_follow_the_configuration() -> None:
    mqtt = {"prefix": "house/cams", "device": "pi", "discovery_prefix": None}
    topics = Topics.of(
        Config.model_validate({"cameras": {"hall": {"source": "synthetic"}}, "mqtt": mqtt})
    )
    assert topics.events("hall") == "house/cams/pi/hall/events"
    assert topics.availability == "house/cams/pi/availability"
    assert topics.discovery_prefix is None
    assert topics.presence("hall", "traffic light") == "house/cams/pi/hall/traffic_light"
    assert topics.problem() == "house/cams/pi/problem"
    assert topics.object_id == "house_cams_pi"


def test_discovery_of_a_camera() -> None:
    message = camera_message(TOPICS, "back_door", ["person", "car"], "http://pi:8080/")
    components = message["components"]
    assert set(components) == {"person", "car", "camera", "state", "visits", "problem", "armed"}
    assert components["armed"]["command_topic"] == "tridetr/node1/back_door/armed/set"
    assert message["device"]["name"] == message["device"]["suggested_area"] == "Back door"
    assert message["device"]["via_device"] == "tridetr_node1"
    assert message["device"]["configuration_url"] == "http://pi:8080/"
    # As in earlier versions, so that entities that were renamed by users are kept.
    assert components["person"]["unique_id"] == "tridetr_node1_back_door_person"
    assert components["car"]["state_topic"] == "tridetr/node1/back_door/car"
    assert components["state"]["options"] == ["unknown", "standby", "validation", "tracking"]
    assert components["visits"]["event_types"] == [
        "person_arrived", "person_left", "person_lost", "person_joined",
        "car_arrived", "car_left", "car_lost", "car_joined",
    ]  # fmt: skip
    alone = camera_message(TOPICS, "back_door", ["person"], None)["components"]["visits"]
    assert alone["event_types"] == ["person_arrived", "person_left", "person_lost"]
    assert components["problem"]["device_class"] == "problem"
    # Each change of an attribute adds a row to Home Assistant's database: ages and rates must not be among them.
    attributes = components["camera"]["json_attributes_template"]
    assert set(re.findall(r"value_json\.(\w+)", attributes)) == {"camera", "source", "message"}
    ids = {component["unique_id"] for component in components.values()}
    assert len(ids) == len(components)


def test_discovery_of_a_node_takes_out_what_the_first_version_declared() -> None:
    message = node_message(TOPICS, None)
    assert "configuration_url" not in message["device"]
    assert message["device"]["identifiers"] == ["tridetr_node1"]
    text = json.loads(with_removed(message, first_entities(["hall"])))
    # Home Assistant removes a component of which only the platform is left.
    assert text["components"]["hall_person"] == {"platform": "binary_sensor"}
    assert text["components"]["problem_disk"]["device_class"] == "problem"
    assert json.loads(with_removed(message, entities_of(message))) == message
    assert json.loads(with_removed(message, "")) == message


@pytest.mark.parametrize(
    ("gateway", "address"),
    [
        ({}, None),
        ({"host": "::1"}, None),
        ({"host": "10.0.0.7", "port": 80}, "http://10.0.0.7:80/"),
        ({"host": "10.0.0.7", "port": 0}, None),
        ({"host": "fd00::7"}, "http://[fd00::7]:8080/"),
        ({"host": "pi.lan"}, "http://pi.lan:8080/"),
    ],
)
def test_the_viewer_is_named_where_others_can_reach_it(
    gateway: dict[str, Any], address: str | None
) -> None:
    assert viewer_address(GatewaySection.model_validate(gateway)) == address


def test_the_node_is_blind_when_no_live_camera_gets_results() -> None:
    def camera(offline: bool, dead: bool) -> dict[CameraProblem, str]:
        kinds = CameraProblem.CAMERA, CameraProblem.DETECTOR, CameraProblem.CLASSES
        return dict(zip(kinds, ["offline" * offline, "no results" * dead, ""], strict=True))

    def blind(*cameras: dict[CameraProblem, str]) -> bool:
        found = problems.of_node(cameras, outbox="", disk="")
        return bool(found[problems.NodeProblem.DETECTOR])

    assert blind(camera(False, True), camera(True, False))
    assert not blind(camera(False, True), camera(False, False))
    assert not blind(camera(True, False))
    slow = {**camera(False, False), CameraProblem.DETECTOR: problems.TOO_SLOW}
    assert not blind(slow, slow)
    assert not blind(slow, camera(False, True))
    text = json.loads(problems.payload(camera(False, True)))
    assert (text["problem"], text["detector"], text["camera"]) == (True, "no results", "")


@pytest.mark.parametrize("prefix", ["", "home/", "/home", "a b", "home/#", "+"])
def test_a_discovery_prefix_is_a_topic(prefix: str) -> None:
    with pytest.raises(ValueError, match="discovery_prefix"):
        Config.model_validate(
            {"cameras": {"hall": {"source": "synthetic"}}, "mqtt": {"discovery_prefix": prefix}}
        )


@pytest.mark.parametrize(
    "record",
    [
        Record(),
        Record(
            Memory(State.VALIDATION, person_frames=2, person_since_ns=5), state_since_unix_ns=NOON
        ),
        Record(
            Memory(State.TRACKING, visit_open=True, nobody_since_ns=7),
            "v",
            NOON,
            NOON,
            9,
            8,
            NOON,
            ("car", "person"),
            "boot",
            77,
        ),
    ],
)
def test_records_survive(record: Record) -> None:
    assert Record.from_json(record.to_json()) == record


def test_a_record_of_an_earlier_version_is_read() -> None:
    """It knew neither classes nor up to when the camera was seen."""
    data = json.loads(Record(Memory(State.TRACKING, visit_open=True), "v").to_json())
    del data["seen_unix_ns"], data["visit_classes"], data["classes_in_view"]
    read = Record.from_json(json.dumps(data))
    assert read.visit_classes == read.classes_in_view == ("person",)


@pytest.mark.parametrize(
    "change",
    [{"state_since_unix_ns": -1}, {"frame_sequence": 2**70}, {"visit_id": "x" * 50, "visit_open": True},
     {"person_frames": float("inf")}, {"visit_classes": 5}],
)  # fmt: skip
def test_a_record_with_impossible_values_is_refused(change: dict[str, Any]) -> None:
    """The board and the database could not hold them, and the controller could never start."""
    data = json.loads(Record().to_json()) | change
    with pytest.raises(ValueError, match=r"."):
        Record.from_json(json.dumps(data))


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", '{"state": "dreaming"}', Record(visit_id="v").to_json(),
     Record(Memory(State.TRACKING, visit_open=True)).to_json()],
)  # fmt: skip
def test_broken_records_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Record.from_json(text)


def test_the_documented_examples_have_the_fields_that_are_sent() -> None:
    text = (Path(__file__).parents[2] / "docs" / "mqtt.md").read_text(encoding="utf-8")
    example_event, example_status, example_node = (
        json.loads(part.split("```")[0]) for part in text.split("```json")[1:]
    )
    happened = VisitEvent(Transition.ARRIVED, "v1", NOON, NOON)
    frame = FrameFacts(77, 70, NOON, 640, 480, "m:1", (Box("person", 0.9, (1, 2, 3, 4)),))
    sent = event(happened, device="d", camera="c", frame=frame, decided_unix_ns=NOON)
    assert set(example_event) == set(json.loads(published(json.dumps(sent), NOON)))
    facts = CameraFacts("unknown", False, 0, "", "offline", "rtsp", "gone", None, None, 3, "ok")
    assert set(example_status) == set(json.loads(status(facts, NOON)))
    described = node({}, model=None, findings=[], space=(1, 2), started_unix_ns=NOON, unix_ns=NOON)
    assert set(example_node) == set(json.loads(described))
    for word in [*example_event, *(f"person_{t.value}" for t in Transition)]:
        assert f"`{word}`" in text, word
