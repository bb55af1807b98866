"""kill -9 of each process of a node in turn: the pipeline is whole again within ten seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.node import Node, running_node
from support.waiting import wait_for
from tridetr.shm.detections import DetectionReader

RECOVERY_S = 10.0
ROLES = ("capture street", "detect", "control", "serve", "tritonserver", "stub", "triton", "broker")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    cameras = {"street": {"source": "synthetic", "width": 640, "height": 360, "fps": 10}}
    started_s = time.monotonic()
    with running_node(tmp_path_factory.mktemp("node"), cameras) as running:
        wait_for(lambda: whole(running, started_s), 90, "the node never became whole")
        yield running


def newest_result(node: Node) -> int:
    reader = DetectionReader(node.instance, "street", None)
    try:
        lease = reader.lease_newest()
        if lease is None:
            return 0
        with lease:
            return int(lease.stamp.published_ns)
    finally:
        reader.close()


def whole(node: Node, since_s: float) -> bool:
    """Whether a frame captured after ``since_s`` went the whole way, to the decision and the browser's API."""
    if newest_result(node) < since_s * 1e9:
        return False
    try:
        ready = json.loads(node.get("/readyz"))
    except OSError:
        return False
    return bool(ready)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("role", ROLES)
def test_killed_process_is_replaced(node: Node, role: str) -> None:
    victim = wait_for(lambda: node.children().get(role), 20, f"no {role} in {node.children()}")
    victim.kill()
    killed_s = time.monotonic()
    wait_for(
        lambda: node.children().get(role, victim).pid != victim.pid, RECOVERY_S, f"{role} is away"
    )
    # What runs now, and not only what was already under way, must work.
    replaced_s = time.monotonic()
    wait_for(lambda: whole(node, replaced_s), RECOVERY_S, node.log_tail())
    assert time.monotonic() - killed_s < RECOVERY_S, node.log_tail()


@pytest.mark.timeout(180)
def test_killed_supervisor_takes_its_processes_along_and_the_next_start_cleans_up(
    tmp_path: Path,
) -> None:
    cameras = {"street": {"source": "synthetic", "width": 640, "height": 360, "fps": 10}}
    with running_node(tmp_path, cameras) as node:
        wait_for(lambda: newest_result(node) > 0, 90, "no result")
        assert node.process
        family = psutil.Process(node.process.pid).children(recursive=True)
        node.process.kill()
        node.process.wait()
        wait_for(
            lambda: not any(p.is_running() and p.status() != "zombie" for p in family),
            RECOVERY_S,
            "processes outlived the supervisor",
        )
        killed_ns = time.monotonic_ns()
        node.start()
        wait_for(lambda: newest_result(node) > killed_ns, 90, node.log_tail())
