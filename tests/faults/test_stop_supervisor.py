"""SIGSTOP of the supervisor: the node keeps running, but restarts nothing until it continues or is replaced.

Whatever started it must notice: systemd's watchdog (docs/how-to/systemd.md), or the liveness probe of its container.
"""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from support.faults import whole, whole_node
from support.waiting import wait_for
from tridetr.supervisor.process import HANG_S
from tridetr.telemetry import heartbeat

RECOVERY_S = 10.0


@pytest.mark.long_faults
@pytest.mark.timeout(300)
def test_a_stopped_supervisor_is_detected_and_resumes_without_harm(tmp_path: Path) -> None:
    """It killed the broker when it resumed, because the broker's heartbeat had aged in the meantime."""
    with whole_node(tmp_path) as (node, machine):
        assert node.process
        supervisor = psutil.Process(node.process.pid)
        before = {role: process.pid for role, process in node.children().items()}
        supervisor.suspend()
        stopped_s = time.monotonic()
        try:
            wait_for(lambda: time.monotonic() - stopped_s > HANG_S + 2, HANG_S + 10)
            assert whole(node, time.monotonic() - 5), "its processes do not need it"
            run_dir = Path(node.config["run_dir"])
            pulse = heartbeat.read(run_dir, heartbeat.supervisor_of(""))
            assert pulse is not None
            assert pulse.age_s > HANG_S
            node.children()["capture street"].kill()
        finally:
            supervisor.resume()
        resumed_s = time.monotonic()
        wait_for(lambda: "capture street" in node.children(), machine.bound(RECOVERY_S))
        wait_for(lambda: whole(node, resumed_s), machine.bound(RECOVERY_S), node.log_tail())
        machine.record("stop supervisor: whole after it went on", time.monotonic() - resumed_s)
        after = {role: process.pid for role, process in node.children().items()}
        assert {role for role in before if after[role] != before[role]} == {"capture street"}
