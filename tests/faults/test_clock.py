"""The wall clock is set back and forth by years: nothing is restarted, no visit ends, no event is sent.

libfaketime gives the node's processes a wall clock that the test sets; the monotonic clock remains the kernel's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.faults import whole, whole_node
from support.grpc_triton import grpc_triton
from support.mosquitto import listening, running_mosquitto
from support.waiting import wait_for
from tridetr.shm.names import SHM_DIR, unlink_instance

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def forget_library(pid: int) -> None:
    """Remove what libfaketime leaves in /dev/shm when its first process is killed."""
    for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
        (SHM_DIR / name).unlink(missing_ok=True)


@pytest.mark.long_faults
@pytest.mark.timeout(300)
@pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed (apt install faketime)")
def test_a_stepped_wall_clock_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    with grpc_triton() as triton, running_mosquitto(tmp_path / "broker") as broker:
        monkeypatch.setenv("LD_PRELOAD", str(LIBRARIES[0]))
        monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(clock))
        monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
        monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        sections: dict[str, Any] = {
            "triton": {"url": triton.url},
            "mqtt": {"host": "127.0.0.1", "port": broker.port},
            "sentry": {"clear_s": 1},
        }
        with listening(broker) as ear, whole_node(tmp_path, **sections) as (node, machine):
            for name in ("LD_PRELOAD", "FAKETIME_TIMESTAMP_FILE"):
                monkeypatch.delenv(name)
            processes = {role: process.pid for role, process in node.children().items()}
            triton.person = True

            def visit() -> str:
                state = node.cameras().get("street", {}).get("state", {})
                return str(state.get("visit_id")) if state.get("state") == "tracking" else ""

            opened = wait_for(visit, machine.bound(15), node.log_tail())
            for step in ("+3650d", "-3650d", "-3600"):
                clock.write_text(step)
                stepped_s = time.monotonic()
                # Longer than unknown_s and the hang limit, so that an age by the wall clock would be noticed.
                wait_for(lambda: time.monotonic() - stepped_s > 11, 20)
                wait_for(lambda: whole(node, time.monotonic() - 1), machine.bound(5), step)
                assert visit() == opened, step
                years = node.cameras()["street"]["frame_age_s"]
                assert 0 <= years < machine.bound(5)
            assert {role: process.pid for role, process in node.children().items()} == processes
            triton.person = False
            wait_for(lambda: len(ear.events()) >= 2, machine.bound(15), node.log_tail())
            events = ear.events()
            assert [event["event_id"] for event in events] == [
                f"{opened}:arrived",
                f"{opened}:left",
            ]
            assert 30 < events[1]["duration_s"] < machine.bound(200)
            # Not stopped cleanly: libfaketime breaks time.sleep, with which the supervisor waits for its processes.
            assert node.process
            node.process.kill()
            wait_for(lambda: not any(psutil.pid_exists(pid) for pid in processes.values()), 30)
            unlink_instance(node.instance, ["street"])
            forget_library(node.process.pid)


def test_the_clock_was_really_faked(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    if not LIBRARIES:
        pytest.skip("libfaketime is not installed (apt install faketime)")

    clock = tmp_path / "clock"
    clock.write_text("+3650d")
    environment = {
        **os.environ,
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    line = [sys.executable, "-c", "import time; print(time.time(), time.monotonic())"]
    wall, monotonic = subprocess.check_output(line, env=environment, text=True).split()
    assert float(wall) - time.time() > 3600 * 24 * 3600
    assert abs(float(monotonic) - time.monotonic()) < 60
