"""A server that fails, is late, never responds, returns nonsense or is gone: Unknown in time, then it continues.

The server is a stand-in behind ``triton.url`` that misbehaves on demand. A person is in the picture all the time: the
visit must neither end nor start again, whatever the server does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.faults import Machine, newest_result_ns, whole, whole_node
from support.grpc_triton import GrpcTriton, Mood, grpc_triton
from support.mosquitto import Mosquitto, Subscriber, listening, running_mosquitto
from support.node import Node
from support.waiting import wait_for

UNKNOWN_S = 5.0
RECOVERY_S = 10.0
GIVE_UP_S = 7.0  # with infer_timeout_s: 1


@dataclass
class Stage:
    node: Node
    machine: Machine
    triton: GrpcTriton
    broker: Mosquitto
    ear: Subscriber

    def state(self) -> str:
        return str(self.node.cameras().get("street", {}).get("state", {}).get("state"))

    def kinds(self) -> list[str]:
        return [event["event_id"] for event in self.ear.events()]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder: Path = tmp_path_factory.mktemp("node")
    with grpc_triton() as triton, running_mosquitto(folder / "broker") as broker:
        sections: dict[str, Any] = {
            "mqtt": {"host": "127.0.0.1", "port": broker.port},
            "triton": {"url": triton.url, "infer_timeout_s": 1},
            "sentry": {"clear_s": 1, "hold_s": 600},
        }
        with listening(broker) as ear, whole_node(folder, **sections) as (node, machine):
            yield Stage(node, machine, triton, broker, ear)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mood", [*(mood for mood in Mood if mood is not Mood.WELL), None])
def test_unknown_in_time_and_the_visit_continues(stage: Stage, mood: Mood | None) -> None:
    triton, machine = stage.triton, stage.machine
    before = len(stage.ear.events())
    triton.person = True
    wait_for(lambda: stage.state() == "tracking", machine.bound(RECOVERY_S), stage.node.log_tail())
    visit = stage.node.cameras()["street"]["state"]["visit_id"]

    fault_s = time.monotonic()
    if mood is None:
        triton.stop()
    else:
        triton.late_s = UNKNOWN_S + 4
        triton.be(mood)
    wait_for(lambda: stage.state() == "unknown", machine.bound(UNKNOWN_S + 3), "still no Unknown")
    unknown_s = time.monotonic() - fault_s
    wait_for(lambda: stage.ear.last("/person") == b"unknown", machine.bound(5))

    healed_s = time.monotonic()
    if mood is None:
        triton.start()
    triton.be(Mood.WELL)
    # A request without a response is given up; any other failure is retried within a second.
    within_s = machine.bound(RECOVERY_S + (GIVE_UP_S if mood is Mood.NEVER else 0))
    wait_for(lambda: whole(stage.node, healed_s), within_s, stage.node.log_tail())
    machine.record(f"triton {mood.value if mood else 'gone'}: unknown", unknown_s)
    machine.record(
        f"triton {mood.value if mood else 'gone'}: recovered", time.monotonic() - healed_s
    )
    wait_for(lambda: stage.state() == "tracking", machine.bound(RECOVERY_S))
    assert stage.node.cameras()["street"]["state"]["visit_id"] == visit

    triton.person = False
    wait_for(lambda: stage.state() == "standby", machine.bound(RECOVERY_S))
    wait_for(lambda: len(stage.ear.events()) >= before + 2, machine.bound(5), "events are missing")
    ours = [event["event_id"] for event in stage.ear.events()[before:]]
    assert ours == [f"{visit}:arrived", f"{visit}:left"], json.dumps(stage.ear.events(), indent=1)
    assert stage.node.children()["detect"].is_running()
    assert newest_result_ns(stage.node)
