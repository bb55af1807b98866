"""Graceful stops and rolling restarts: viewers reconnect, the broker is notified, nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets

from support.faults import Machine, whole, whole_node
from support.grpc_triton import GrpcTriton, grpc_triton
from support.mosquitto import Mosquitto, Subscriber, listening, running_mosquitto
from support.node import Node
from support.waiting import wait_for

RECONNECTED_S = 2.0

Stage = tuple[Node, Machine, GrpcTriton, Mosquitto, Subscriber]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder: Path = tmp_path_factory.mktemp("node")
    with grpc_triton() as triton, running_mosquitto(folder / "broker") as broker:
        sections: dict[str, Any] = {
            "triton": {"url": triton.url},
            "mqtt": {"host": "127.0.0.1", "port": broker.port},
        }
        with listening(broker) as ear, whole_node(folder, **sections) as (node, machine):
            yield node, machine, triton, broker, ear


class Viewer:
    """Watches as the page does: reconnects immediately, then at growing intervals."""

    def __init__(self, node: Node) -> None:
        self.url = node.url.replace("http", "ws") + "/ws/street"
        self.frames: list[float] = []
        self.closed: list[float] = []
        self.codes: list[int | None] = []

    async def watch(self) -> None:
        while True:
            with contextlib.suppress(OSError, websockets.WebSocketException):
                async with websockets.connect(self.url, max_size=None) as connection:
                    try:
                        async for message in connection:
                            assert isinstance(message, bytes)
                            size = int.from_bytes(message[:4], "little")
                            if json.loads(message[4 : 4 + size])["type"] == "frame":
                                self.frames.append(time.monotonic())
                    finally:
                        self.closed.append(time.monotonic())
                        self.codes.append(connection.close_code)
            await asyncio.sleep(0.1)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("role", ["capture street", "detect", "control", "serve"])
async def test_a_rolling_restart_leaves_viewers_watching(stage: Stage, role: str) -> None:
    node, machine, *_ = stage
    viewer = Viewer(node)
    watching = asyncio.create_task(viewer.watch())
    try:
        await until(lambda: len(viewer.frames) > 3, machine.bound(10))
        process = node.children()[role]
        process.terminate()
        ended_s = time.monotonic()
        await until(
            lambda: node.children().get(role, process).pid != process.pid, machine.bound(10)
        )
        await asyncio.to_thread(
            wait_for, lambda: whole(node, ended_s), machine.bound(10), node.log_tail()
        )
        await until(lambda: viewer.frames[-1] > ended_s + 0.5, machine.bound(10))
        first_s = next(at for at in viewer.frames if at > ended_s + 0.5)
        gap_s = max(b - a for a, b in zip(viewer.frames, viewer.frames[1:], strict=False))
        machine.record(f"restart {role}: longest gap between pictures", gap_s)
        assert first_s - ended_s < machine.bound(RECONNECTED_S + 1)
        if role == "serve":
            assert viewer.codes[0] == 1001  # the connection was closed, not dropped
        else:
            assert not viewer.closed
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def until(condition: Callable[[], object], within_s: float) -> None:
    await asyncio.to_thread(wait_for, condition, within_s)


@pytest.mark.timeout(200)
def test_a_stop_is_published_to_the_broker_and_quick(tmp_path: Path) -> None:
    with grpc_triton() as triton, running_mosquitto(tmp_path / "broker") as broker:
        sections: dict[str, Any] = {
            "triton": {"url": triton.url},
            "mqtt": {"host": "127.0.0.1", "port": broker.port},
        }
        with listening(broker) as ear, whole_node(tmp_path, **sections) as (node, machine):
            wait_for(lambda: ear.last("/availability") == b"online", machine.bound(10))
            triton.person = True
            wait_for(lambda: len(ear.events()) == 1, machine.bound(15), node.log_tail())
            began_s = time.monotonic()
            summary = node.stop(machine.bound(20))
            machine.record("SIGINT of the whole node", time.monotonic() - began_s)
            wait_for(lambda: ear.last("/availability") == b"offline")
            assert summary["cameras"]["street"]["events_published"] == 1
            assert not any(summary["restarts"].values())
            assert "Traceback" not in node.log.read_text()
