"""SIGSTOP of each process: it exists, but makes no progress. This is detected, and it is killed and replaced.

The kernel still acts for a stopped process (its port accepts, its pipes fill), so only missing progress reveals it. In
the meantime the state shown must be Unknown or offline, never the last state as if it were still valid.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from support.faults import Machine, alive, whole, whole_node
from support.node import Node
from support.waiting import wait_for

# Ten seconds without a heartbeat, plus recovery. The server: five without an inference, ten without a response.
RECOVERY_S = 25.0
ROLES = ("capture street", "detect", "control", "serve", "triton", "tritonserver", "stub", "broker")
UNKNOWN_S = (
    5.0  # sentry.unknown_s: results may be missing for this long before the state is Unknown
)
SHOWN = {  # what the viewer's API must have shown in between
    "capture street": {"offline"},
    "detect": {"unknown"},
    "control": {"unknown"},
    "tritonserver": {"unknown"},
    "stub": {"unknown"},
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Machine]]:
    with whole_node(tmp_path_factory.mktemp("node")) as both:
        yield both


@pytest.mark.long_faults
@pytest.mark.timeout(400)
@pytest.mark.parametrize("role", ROLES)
def test_a_stopped_process_is_detected_and_replaced(
    running: tuple[Node, Machine], role: str
) -> None:
    node, machine = running
    victim = wait_for(lambda: node.children().get(role), 60, f"no {role} in {node.children()}")
    victim.suspend()
    stopped_s = time.monotonic()
    shown: set[str] = set()
    within_s = machine.bound(RECOVERY_S)

    def look() -> None:
        row = node.cameras().get("street")
        if row:
            shown.update((row["status"]["state"], row["state"]["state"]))

    def replaced() -> bool:
        look()
        return not alive(victim)

    def healed() -> bool:
        look()
        return whole(node, replaced_s)

    try:
        # The watcher of the server (role `triton`) ends the server, too.
        wait_for(replaced, within_s, f"{role} stands still: {node.log_tail()}")
        replaced_s = time.monotonic()
        wait_for(healed, within_s, f"{node.cameras()} {node.log_tail()}")
        took_s = time.monotonic() - stopped_s
        machine.record(f"stop {role}", took_s)
        assert took_s < UNKNOWN_S + 1 or shown >= SHOWN.get(role, set())
    finally:
        if alive(victim):
            victim.resume()
