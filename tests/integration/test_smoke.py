"""The check that `helm test` runs: it must distinguish a node with results from one without."""

from __future__ import annotations

import json
from pathlib import Path

import paho.mqtt.publish as publish

from support.mosquitto import running_mosquitto
from support.relay import relay_to
from support.waiting import slack
from tridetr.config.load import parse_config
from tridetr.controller.topics import Topics
from tridetr.smoke import wait_until_seen


def test_only_a_camera_with_a_fresh_result_counts(tmp_path: Path) -> None:
    with running_mosquitto(tmp_path / "broker") as broker:
        text = f"cameras: {{a: {{source: synthetic}}, b: {{source: synthetic}}}}\nmqtt: {{port: {broker.port}}}"
        config = parse_config(text, origin=tmp_path / "x.yaml")
        topics = Topics.of(config)

        def report(camera: str, state: str, age_s: float | None) -> None:
            payload = json.dumps({"camera": state, "last_result_age_s": age_s})
            publish.single(topics.status(camera), payload, retain=True, port=broker.port)

        report("a", "live", 0.1)
        assert wait_until_seen(config, slack(2.0)) == ["b"]
        report("b", "offline", 0.1)
        assert wait_until_seen(config, slack(2.0)) == ["b"]
        report("b", "live", None)
        assert wait_until_seen(config, slack(2.0)) == ["b"]
        report("b", "live", 0.2)
        assert wait_until_seen(config, 60.0) == []


def test_many_cameras_are_not_subscribed_in_one_message(tmp_path: Path) -> None:
    """AWS IoT Core ends the connection on more than 8 topics in one SUBSCRIBE, so no camera had a result."""
    cameras = "".join(f"  c{number}: {{source: synthetic}}\n" for number in range(9))
    with running_mosquitto(tmp_path / "broker") as broker, relay_to(broker.port) as relay:
        text = f"cameras:\n{cameras}mqtt: {{port: {relay.port}}}"
        config = parse_config(text, origin=tmp_path / "x.yaml")
        topics = [Topics.of(config).status(camera).encode() for camera in config.cameras]
        eighth, ninth = (len(topic).to_bytes(2, "big") + topic + b"\0" for topic in topics[7:])
        relay.forbidden = eighth + ninth
        payload = json.dumps({"camera": "live", "last_result_age_s": 0.1})
        for topic in topics:
            publish.single(topic.decode(), payload, retain=True, port=broker.port)
        assert wait_until_seen(config, 10.0) == []
