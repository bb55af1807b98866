"""kill -9 of each process of a node in turn: the pipeline works again within ten seconds on an idle machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from support.faults import STREET, Machine, alive, newest_result_ns, whole, whole_node
from support.node import Node, running_node
from support.waiting import wait_for
from tridetr.ports import bind_fault

RECOVERY_S = 10.0
ROLES = (
    "capture street",
    "detect",
    "control",
    "record",
    "serve",
    "tritonserver",
    "stub",
    "triton",
    "broker",
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Machine]]:
    with whole_node(tmp_path_factory.mktemp("node"), evidence={}) as both:
        yield both


@pytest.mark.timeout(300)
@pytest.mark.parametrize("role", ROLES)
def test_killed_process_is_replaced(running: tuple[Node, Machine], role: str) -> None:
    node, machine = running
    victim = wait_for(lambda: node.children().get(role), 60, f"no {role} in {node.children()}")
    victim.kill()
    killed_s = time.monotonic()
    within_s = machine.bound(RECOVERY_S)
    wait_for(
        lambda: node.children().get(role, victim).pid != victim.pid, within_s, f"{role} is away"
    )
    # New frames must be processed, not only those that were already on their way.
    replaced_s = time.monotonic()
    wait_for(lambda: whole(node, replaced_s), within_s, f"not whole: {node.cameras()}")
    took_s = time.monotonic() - killed_s
    machine.record(f"kill {role}", took_s)
    assert took_s < within_s, node.log_tail()


@pytest.mark.timeout(300)
def test_nobody_else_can_listen_on_the_viewers_port_while_the_gateway_restarts(
    running: tuple[Node, Machine],
) -> None:
    """Another user of the machine got the tokens and sessions of viewers that reconnected."""
    node, machine = running
    victim = wait_for(lambda: node.children().get("serve"), 60)
    address = "127.0.0.1", node.config["gateway"]["port"]
    victim.kill()
    victim.wait(10)
    within_s = time.monotonic() + machine.bound(RECOVERY_S)
    with ThreadPoolExecutor() as threads:
        request = threads.submit(node.get, "/healthz")  # waits for the next gateway
        while not request.done() and time.monotonic() < within_s:
            assert bind_fault(*address) == "Address already in use"
            time.sleep(0.01)
        assert request.result()
    assert node.children()["serve"].pid != victim.pid


@pytest.mark.timeout(300)
def test_a_killed_supervisor_ends_its_processes_and_the_next_start_cleans_up(
    tmp_path: Path,
) -> None:
    with whole_node(tmp_path) as (node, machine):
        assert node.process
        family = psutil.Process(node.process.pid).children(recursive=True)
        # A stopped process does not react to the kernel's SIGTERM: the next start has to end it.
        node.children()["detect"].suspend()
        node.process.kill()
        node.process.wait()
        stopped = {p.pid for p in family if alive(p) and p.status() == psutil.STATUS_STOPPED}
        wait_for(
            lambda: not any(alive(p) for p in family if p.pid not in stopped),
            machine.bound(RECOVERY_S),
            "processes outlived the supervisor",
        )
        assert len(stopped) == 1
        killed_s = time.monotonic()
        node.start()
        wait_for(lambda: newest_result_ns(node) > killed_s * 1e9, machine.bound(30), "no result")
        machine.record("kill supervisor: results after the next start", time.monotonic() - killed_s)
        assert not any(alive(p) for p in family)


@pytest.mark.timeout(200)
def test_a_second_start_of_the_same_node_is_refused(tmp_path: Path) -> None:
    with running_node(tmp_path, STREET) as node:
        wait_for(lambda: newest_result_ns(node) > 0, 150, "no result")
        first, node.process = node.process, None
        node.start()
        second, node.process = node.process, first
        assert second
        assert second.wait(60) != 0
        assert "is already running" in node.log_tail()
        now_s = time.monotonic()
        wait_for(lambda: newest_result_ns(node) > now_s * 1e9, 60, "the first one was disturbed")
