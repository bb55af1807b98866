"""Payloads and topics: pure builders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tridetr.config import Config
from tridetr.controller.discovery import discovery_payload
from tridetr.controller.payloads import (
    MAX_BOXES,
    Box,
    CameraFacts,
    Command,
    FrameFacts,
    event,
    iso,
    parse_command,
    person,
    published,
    status,
)
from tridetr.controller.state_machine import Memory, State, Transition
from tridetr.controller.topics import Topics, default_device
from tridetr.controller.visits import Record, VisitEvent

SECOND = 1_000_000_000
NOON = 1_700_000_000 * SECOND
TOPICS = Topics("tridetr", "node1", "homeassistant")


def test_event_payload():
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


def test_event_without_a_frame_and_with_too_many_boxes():
    happened = VisitEvent(Transition.LOST, "v1", NOON, NOON)
    payload = event(happened, device="d", camera="c", frame=None, decided_unix_ns=NOON)
    assert (payload["captured_at"], payload["frame_number"], payload["boxes"]) == (None, None, [])
    crowd = (Box("person", 0.9, (1, 2, 3, 4)),) * 300
    frame = FrameFacts(1, 1, NOON, 640, 480, "m:1", crowd)
    payload = event(happened, device="d", camera="c", frame=frame, decided_unix_ns=NOON)
    assert len(payload["boxes"]) == MAX_BOXES


@pytest.mark.parametrize(
    ("state", "expected"),
    [("UNKNOWN", "unknown"), ("STANDBY", "OFF"), ("VALIDATION", "OFF"), ("TRACKING", "ON")],
)
def test_person(state, expected):
    assert person(State[state]) == expected


def test_status_is_json_with_nulls_where_nothing_is_known():
    facts = CameraFacts("unknown", False, 0, "", "offline", "rtsp", "gone", None, None, 3, "ok")
    payload = json.loads(status(facts, NOON))
    assert payload["schema"] == 1
    assert (payload["state_since"], payload["visit_id"], payload["last_frame_age_s"]) == (None,) * 3
    assert payload["events_waiting"] == 3


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"refresh", Command.REFRESH),
        (b" REFRESH\n", Command.REFRESH),
        (b"", None),
        (b"refreshh", None),
        (b"\xff", None),
        (b" " * 300 + b"refresh", None),
    ],
)
def test_commands(payload, expected):
    assert parse_command(payload) is expected


@given(st.binary(max_size=1000))
def test_any_command_is_survived(payload):
    assert parse_command(payload) in (None, Command.REFRESH)


@pytest.mark.parametrize(
    ("ns", "text"), [(0, None), (-5, None), (10**30, None), (1, "1970-01-01T00:00:00.000Z")]
)
def test_iso(ns, text):
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
def test_default_device_is_one_topic_level(host, instance, device):
    assert default_device(host, instance) == device


def test_topics_follow_the_configuration():
    mqtt = {"prefix": "house/cams", "device": "pi", "discovery_prefix": None}
    topics = Topics.of(
        Config.model_validate({"cameras": {"hall": {"source": "synthetic"}}, "mqtt": mqtt})
    )
    assert topics.events("hall") == "house/cams/pi/hall/events"
    assert topics.availability == "house/cams/pi/availability"
    assert topics.discovery is None
    assert topics.object_id == "house_cams_pi"


def test_discovery_of_two_cameras_and_a_removed_one():
    payload = json.loads(discovery_payload(TOPICS, ["hall", "back_door"], removed=["attic"]))
    components = payload["components"]
    assert set(components) == {
        f"{camera}_{entity}"
        for camera in ("hall", "back_door", "attic")
        for entity in ("person", "camera", "state", "visits")
    }
    # Home Assistant removes a component of which only the platform is left.
    assert components["attic_state"] == {"platform": "sensor"}
    assert components["back_door_person"]["name"] == "back door person"
    assert components["hall_state"]["options"] == ["unknown", "standby", "validation", "tracking"]
    assert components["hall_visits"]["event_types"] == [
        "person_arrived",
        "person_left",
        "person_lost",
    ]
    identities = [c["unique_id"] for c in components.values() if "unique_id" in c]
    assert len(set(identities)) == 8


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
        ),
    ],
)
def test_records_survive(record):
    assert Record.from_json(record.to_json()) == record


def test_a_record_of_an_earlier_version_is_read():
    """It knew neither classes nor up to when the camera was seen."""
    data = json.loads(Record(Memory(State.TRACKING, visit_open=True), "v").to_json())
    del data["seen_unix_ns"], data["visit_classes"]
    assert Record.from_json(json.dumps(data)).visit_classes == ("person",)


@pytest.mark.parametrize(
    "change",
    [{"state_since_unix_ns": -1}, {"frame_sequence": 2**70}, {"visit_id": "x" * 50, "visit_open": True},
     {"person_frames": float("inf")}, {"visit_classes": 5}],
)  # fmt: skip
def test_a_record_with_impossible_values_is_refused(change):
    """The board and the database could not hold them, and the controller could never start."""
    data = json.loads(Record().to_json()) | change
    with pytest.raises(ValueError, match=r"."):
        Record.from_json(json.dumps(data))


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", '{"state": "dreaming"}', Record(visit_id="v").to_json(),
     Record(Memory(State.TRACKING, visit_open=True)).to_json()],
)  # fmt: skip
def test_broken_records_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        Record.from_json(text)


def test_the_documented_examples_have_the_fields_that_are_sent():
    text = (Path(__file__).parents[2] / "docs" / "mqtt.md").read_text(encoding="utf-8")
    example_event, example_status = (
        json.loads(part.split("```")[0]) for part in text.split("```json")[1:]
    )
    happened = VisitEvent(Transition.ARRIVED, "v1", NOON, NOON)
    frame = FrameFacts(77, 70, NOON, 640, 480, "m:1", (Box("person", 0.9, (1, 2, 3, 4)),))
    sent = event(happened, device="d", camera="c", frame=frame, decided_unix_ns=NOON)
    assert set(example_event) == set(json.loads(published(json.dumps(sent), NOON)))
    facts = CameraFacts("unknown", False, 0, "", "offline", "rtsp", "gone", None, None, 3, "ok")
    assert set(example_status) == set(json.loads(status(facts, NOON)))
    for word in [*example_event, *(f"person_{t.value}" for t in Transition)]:
        assert f"`{word}`" in text, word
