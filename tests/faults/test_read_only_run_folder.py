"""The file system of the run folder becomes read-only while a node runs (an error of ext4, a worn memory card)."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.faults import record, whole, whole_node
from support.grpc_triton import grpc_triton
from support.mosquitto import Subscriber, free_port
from support.waiting import slack, wait_for
from tridetr.supervisor.process import HANG_S, START_S
from tridetr.telemetry import heartbeat


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let files in a folder be opened for reading only; those that are open already stay writable."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _may_mount(folder: Path) -> bool:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        subprocess.run(["mount", "--bind", folder, folder], check=True, capture_output=True)
        subprocess.run(["umount", folder], check=True)
        return True
    return False


@pytest.mark.long_faults
@pytest.mark.timeout(500)
def test_processes_that_die_on_a_read_only_run_folder_are_replaced(tmp_path: Path) -> None:
    """Each new process was killed 0.1 s after its start, again and again, for its predecessor's old heartbeat."""
    if os.geteuid() != 0 or not _may_mount(tmp_path):
        pytest.skip("mounting needs root")
    port = free_port()
    mqtt = {"host": "embedded", "port": port, "device": "node1"}
    with (
        grpc_triton() as triton,
        whole_node(tmp_path, triton={"url": triton.url}, mqtt=mqtt, evidence={}) as (node, machine),
    ):
        run_dir = tmp_path / "run"

        def problem() -> bytes:
            with contextlib.closing(Subscriber(port)) as ear:
                return wait_for(lambda: ear.last("node1/problem"))

        assert b'"disk":""' in problem()
        with read_only(run_dir):
            wait_for(lambda: "run_dir" in node.log_tail(), 30, node.log_tail())
            wait_for(lambda: b"run_dir" in problem(), 30)
            victims = node.children()
            for victim in victims.values():
                victim.kill()
            killed_s = time.monotonic()
            wait_for(lambda: whole(node, killed_s + 1), machine.bound(30), node.log_tail())
            record("read-only run folder: all processes replaced", time.monotonic() - killed_s)
            replaced = node.children()
            assert set(replaced) == set(victims)
            assert b"run_dir" in problem()
            # None counts as hanging, neither those that write no heartbeat nor the broker, whose heartbeat is old
            wait_for(lambda: time.monotonic() > killed_s + START_S + 2 * HANG_S, 200)
            assert {name: child.pid for name, child in node.children().items()} == {
                name: child.pid for name, child in replaced.items()
            }, node.log_tail()
            assert "Traceback" not in node.log.read_text()
            assert node.log.read_text().count("cannot be written") == 1
        healed_s = time.monotonic()
        names = ["capture street", "detector", "controller", "gateway", "recorder", "broker"]

        def watched(name: str) -> bool:
            pulse = heartbeat.read(run_dir, name)
            return pulse is not None and not pulse.starting and pulse.age_s < 5

        for name in names:
            wait_for(lambda name=name: watched(name), slack(10), name)  # type: ignore[misc]
        wait_for(lambda: b'"disk":""' in problem(), 30)
        assert "can be written again" in node.log.read_text()
        record("read-only run folder: watched again", time.monotonic() - healed_s)
        node.children()["detect"].suspend()
        wait_for(lambda: "detector shows no progress" in node.log_tail(), machine.bound(30))
        resumed_s = time.monotonic()
        wait_for(lambda: whole(node, resumed_s), machine.bound(40), node.log_tail())
        assert b'"disk":""' in problem()
