"""`tridetr fleet` with many nodes on one real broker."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from support.mosquitto import Mosquitto, listening, running_mosquitto
from support.sentry import EMPTY, running_controller
from support.waiting import wait_for
from tridetr.controller import payloads
from tridetr.fleet import Fleet
from tridetr.model_card import ModelInfo
from tridetr.served_model import write_served_model
from tridetr.shm.boards import CameraState

MODEL = ModelInfo("nano", "5f1c09", "onnxruntime", "cpu", "fp32", checksum="5f1c09aa83d2" * 5)


def report(age_s: float = 0, findings: Any = ()) -> str:
    now = time.time_ns()
    return payloads.node(
        {"hall": {"camera": "live", "state": "standby", "source": "rtsp"}},
        model=MODEL,
        findings=findings,
        space=(1 << 30, 1 << 34),
        started_unix_ns=1,
        unix_ns=now - round(age_s * 1e9),
    )


class Crowd:
    """Forty nodes that publish the same messages as real ones."""

    def __init__(self, broker: Mosquitto) -> None:
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        for number in range(40):
            self.publish(number, "availability", "online")
            self.publish(number, "node", report())

    def publish(self, number: int, topic: str, payload: str) -> None:
        self.client.publish(f"tridetr/n{number:02}/{topic}", payload, 1, True).wait_for_publish(10)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def command(folder: Path, broker: Mosquitto, *words: str) -> list[str]:
    file = folder / "fleet.yaml"
    keys = {"cameras": {"any": {"source": "synthetic"}}, "mqtt": {"port": broker.port}}
    file.write_text(yaml.safe_dump(keys))
    return [sys.executable, "-m", "tridetr", "fleet", *words, "--config", str(file)]


def status(folder: Path, broker: Mosquitto, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        command(folder, broker, "status", *words), capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, done.stdout


def test_status_of_forty_nodes_lists_those_with_problems(tmp_path: Path) -> None:
    with running_mosquitto(tmp_path / "broker") as broker:
        crowd = Crowd(broker)
        code, text = status(tmp_path, broker, "--json")
        assert (code, json.loads(text)["counts"]) == (0, {"ok": 40})
        crowd.publish(3, "availability", "offline")
        crowd.publish(5, "node", report(age_s=10 * payloads.NODE_S))
        crowd.publish(
            7, "node", report(findings=[{"camera": "hall", "kind": "camera", "message": "dark"}])
        )
        crowd.publish(9, "node", "")
        crowd.publish(11, "node", '{"junk": 1}')
        code, text = status(tmp_path, broker, "--json")
        found = json.loads(text)
        assert code == 1
        odd = {n["device"]: n["condition"] for n in found["nodes"] if n["condition"] != "ok"}
        assert odd == {
            "n03": "offline", "n05": "silent", "n07": "problem", "n09": "unknown", "n11": "unreadable",
        }  # fmt: skip
        code, text = status(tmp_path, broker)
        assert "40 nodes" in text
        assert "hall: dark" in text
        assert MODEL.checksum[:12] in text
        crowd.close()


def test_watch_prints_each_change(tmp_path: Path) -> None:
    with running_mosquitto(tmp_path / "broker") as broker:
        crowd = Crowd(broker)
        with subprocess.Popen(
            command(tmp_path, broker, "watch", "--json"), stdout=subprocess.PIPE, text=True
        ) as watch:
            assert watch.stdout
            first = [json.loads(watch.stdout.readline()) for _ in range(40)]
            assert {node["condition"] for node in first} == {"ok"}
            crowd.publish(4, "node", report())  # no change
            crowd.publish(8, "availability", "offline")
            change = json.loads(watch.stdout.readline())
            assert (change["device"], change["condition"]) == ("n08", "offline")
            watch.terminate()
        crowd.close()


def strictly(text: str) -> Any:
    """Parse JSON as other languages do: Python accepts NaN and Infinity, too."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"not JSON: {constant}")

    return json.loads(text, parse_constant=refuse)


def report_with(further: str) -> str:
    """Return a valid report with another key, whose value is any text."""
    return report().removesuffix("}") + f', "x": {further}}}'


@pytest.mark.parametrize("further", ["[" * 980 + "]" * 980, "NaN"], ids=["deep", "nan"])
def test_a_hostile_report_is_named_and_leaves_the_others_readable(
    tmp_path: Path, further: str
) -> None:
    """One retained report that was nested deeply was a RecursionError; NaN was printed, which is not JSON."""
    with running_mosquitto(tmp_path / "broker") as broker:
        crowd = Crowd(broker)
        crowd.publish(2, "node", report_with(further))
        crowd.client.publish("tridetr/evil/node", report_with(further), 1, True).wait_for_publish(
            10
        )
        code, text = status(tmp_path, broker, "--json")
        found = strictly(text)
        assert (code, found["counts"]) == (1, {"ok": 39, "unreadable": 2})
        bad = [node for node in found["nodes"] if node["condition"] == "unreadable"]
        assert [(node["device"], node["node"]) for node in bad] == [("evil", None), ("n02", None)]
        assert "2 unreadable" in status(tmp_path, broker)[1]
        with subprocess.Popen(
            command(tmp_path, broker, "watch", "--json"), stdout=subprocess.PIPE, text=True
        ) as watch:
            assert watch.stdout
            first = [strictly(watch.stdout.readline()) for _ in range(41)]
            assert {"evil", "n00", "n39"} <= {node["device"] for node in first}
            crowd.publish(2, "node", report())
            change = strictly(watch.stdout.readline())
            assert (change["device"], change["condition"]) == ("n02", "ok")
            crowd.publish(3, "node", report_with(further))
            change = strictly(watch.stdout.readline())
            assert (change["device"], change["condition"]) == ("n03", "unreadable")
            watch.terminate()
        crowd.close()


def test_unreachable_broker_is_an_error_with_its_address(tmp_path: Path) -> None:
    with running_mosquitto(tmp_path / "broker") as broker:
        pass
    done = subprocess.run(
        command(tmp_path, broker, "status"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"cannot connect to the broker at 127.0.0.1:{broker.port}" in " ".join(
        done.stderr.split()
    )


def test_node_publishes_its_description(tmp_path: Path) -> None:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}) as (controller, actor),
    ):

        def node() -> dict[str, Any]:
            message: dict[str, Any] = json.loads(ear.last("node1/node") or b"{}")
            return message

        actor.show_and_wait(EMPTY, 2)
        wait_for(lambda: node().get("cameras", {}).get("hall", {}).get("state") == "standby")
        wait_for(lambda: node()["findings"] == [], what="a node without problems")
        assert node()["disk"]["free_bytes"] > 0
        assert node()["model"] is None
        write_served_model(Path(controller.config["run_dir"]), MODEL)
        wait_for(lambda: node()["model"] and node()["model"]["checksum"] == MODEL.checksum)
        actor.be(CameraState.OFFLINE)
        wait_for(lambda: any(found["kind"] == "camera" for found in node()["findings"]))
        assert node()["cameras"]["hall"]["camera"] == "offline"
        controller.kill()
        wait_for(lambda: ear.last("node1/availability") == b"offline")
        code, text = status(tmp_path, broker)
        assert code == 1
        assert "offline" in text


@pytest.mark.parametrize(
    "junk",
    [
        b"\xff", b"[]", b"1", b"{}", b'{"published_at": 1, "interval_s": 1}',
        b'{"published_at": "2026-11-22T05:11:20Z", "interval_s": "x", "cameras": {}, "findings": []}',
        b'{"published_at": "2026-11-22T05:11:20Z", "interval_s": 1, "cameras": {"a": 1}, "findings": []}',
        b'{"published_at": "2026-11-22T05:11:20Z", "interval_s": 1, "cameras": {}, "findings": [1]}',
        b'{"published_at": "2026-11-22T05:11:20Z", "interval_s": 1, "cameras": {}, "findings": {}}',
        b'{"published_at": "2026-11-22T05:11:20Z", "interval_s": 1, "cameras": {}, "findings": ""}',
        b'{"published_at": "2026-11-22T05:11:20Z", "interval_s": 1, "cameras": {}, "findings": [], "model": []}',
        b'{"published_at": "2026-11-22T05:11:20Z", "interval_s": NaN, "cameras": {}, "findings": []}',
        b'{"published_at": "2026-11-22T05:11:20Z", "interval_s": 1, "cameras": {}, "findings": [], "model": "a"}',
        b'{"published_at": "2026-11-22T05:11:20Z", "interval_s": 1, "cameras": {}, "findings": [],'
        b' "disk": {"free_bytes": "a"}}',
        b'{"published_at": "2026-11-22T05:11:20Z", "interval_s": 1, "cameras": {}, "findings": [],'
        b' "disk": {"free_bytes": 1' + b"0" * 400 + b"}}",
        b"[" * 100_000,
        b'{"published_at": "2026-11-22T05:11:20Z", "interval_s": 1, "cameras": {}, "findings": [], "x": '
        + b"[" * 70 + b"]" * 70 + b"}",
        b'{"published_at": "2026-11-22T05:11:20Z", "interval_s": 1, "cameras": {}, "findings": [], "x": 1e999}',
        b'{"published_at": "2026-11-22T05:11:20Z", "interval_s": 1, "cameras": {}, "findings": [], "x": -Infinity}',
        b'{"published_at": "2026-11-22T05:11:20Z", "interval_s": 1, "cameras": {}, "findings": [], "disk": {"a": 1}}',
    ],
)  # fmt: skip
def test_arbitrary_reports_are_handled(junk: bytes) -> None:
    fleet = Fleet("house/cams")
    assert not fleet.hear("house/cams/n1/node", junk)
    fleet.hear("house/cams/n1/availability", b"online")
    assert [(node.name, node.condition) for node in fleet.view(0)] == [("n1", "unreadable")]
    fleet.hear("house/cams/n1/node", report().encode())
    assert fleet.view(time.time())[0].condition == "ok"
    assert not fleet.hear("house/cams/n1/node", junk)
    assert fleet.view(0)[0].report == {}
    fleet.hear("house/cams/n1/availability", b"offline")
    assert fleet.view(0)[0].condition == "offline"
    fleet.hear("house/cams/n1/node", b"")
    fleet.hear("house/cams/n1/availability", b"")
    assert fleet.view(0) == []
