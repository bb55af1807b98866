"""The check that `helm test` runs: it must distinguish a node with results from one without."""

from __future__ import annotations

import json
from pathlib import Path

import paho.mqtt.publish as publish

from support.mosquitto import running_mosquitto
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
