"""One supervisor per process, as in the containers of a pod: they share an instance and its folders."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.faults import STREET, whole
from support.node import Node
from support.waiting import wait_for
from tridetr.probe import fault
from tridetr.shm.names import unlink_instance
from tridetr.supervisor import orphans

PROCESSES = ("triton", "capture street", "detector", "controller", "gateway", "broker")


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path, STREET)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: unlink_instance(node.instance, STREET))
        for process in PROCESSES:
            node.start("--only", process)
            assert node.process
            stack.callback(node.process.wait, 30)
            stack.callback(node.process.terminate)
        yield node
    assert not orphans.find(tmp_path / "run")


@pytest.mark.timeout(300)
def test_processes_of_a_pod_work_together_and_exclude_a_node_of_the_same_instance(
    pod: Node,
) -> None:
    started_s = time.monotonic()
    wait_for(lambda: whole(pod, started_s), 150, f"not whole: {pod.log_tail()}")
    for process in PROCESSES[:-1]:
        wait_for(lambda: fault(process, pod.folder / "run", ready=True) is None, 30)
    for options in ([], ["--only", "gateway"]):
        line = [sys.executable, "-m", "tridetr", "up", "--config", str(pod.file), *options]
        refused = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert refused.returncode == 2, refused.stderr
        assert "is already running" in refused.stderr
    now_s = time.monotonic()
    wait_for(lambda: whole(pod, now_s), 60, f"not whole: {pod.log_tail()}")
