"""Helpers of the fault tests: whether the node has recovered, how slow the machine is, recorded measurements."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from support.node import Node, running_node
from support.waiting import slack, wait_for
from tridetr.controller.camera_control import BOARD_LEASE_S
from tridetr.shm.boards import SentryReader
from tridetr.shm.detections import DetectionReader

QUIET_START_S = 8.0  # from the command to the first decision, on two idle cores
STREET = {"street": {"source": "synthetic", "width": 640, "height": 360, "fps": 10}}


def newest_result_ns(node: Node, camera: str = "street") -> int:
    """Return when the camera's newest result was published (monotonic [ns]); 0 if there is none."""
    with DetectionReader(node.instance, camera, None) as reader:
        lease = reader.lease_newest()
        if lease is None:
            return 0
        with lease:
            return int(lease.stamp.published_ns)


def decided(node: Node, camera: str = "street") -> bool:
    """Return whether the camera is live and its sentry state is not Unknown."""
    row = node.cameras().get(camera, {})
    return row.get("status", {}).get("state") == "live" and row.get("state", {}).get(
        "state"
    ) not in (
        None,
        "unknown",
    )


def board_written_ns(node: Node, camera: str) -> int:
    """Return when the controller last renewed its board (monotonic [ns]); 0 if never."""
    with SentryReader(node.instance, camera) as reader:
        board = reader.read()
    return board.expires_monotonic_ns - round(BOARD_LEASE_S * 1e9) if board else 0


def whole(node: Node, since_s: float, camera: str = "street") -> bool:
    """Return whether a frame since then was processed end to end: result, decision, and the browser's API."""
    since_ns = since_s * 1e9
    if newest_result_ns(node, camera) < since_ns or board_written_ns(node, camera) < since_ns:
        return False
    if not decided(node, camera):
        return False
    with contextlib.suppress(OSError):
        return bool(json.loads(node.get("/readyz"))["ready"])
    return False


def alive(process: psutil.Process) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def record(fault: str, seconds: float, slowness: float = 1.0) -> None:
    """Print a measurement, and append it to ``$TRIDETR_FAULT_TIMES``."""
    line = json.dumps(
        {
            "fault": fault,
            "seconds": round(seconds, 1),
            "slowness": round(slowness, 1),
            "load": round(os.getloadavg()[0], 1),
        }
    )
    print(line)
    if target := os.environ.get("TRIDETR_FAULT_TIMES"):
        with Path(target).open("a") as file:
            file.write(line + "\n")


class Machine:
    """How much slower than a quiet machine this one is: stretches time limits, and records measurements."""

    def __init__(self, start_s: float) -> None:
        self.slowness = max(1.0, start_s / QUIET_START_S)

    def bound(self, seconds: float) -> float:
        """Return a time limit [s], scaled by how slow this machine was at the start or is now."""
        return seconds * max(self.slowness, slack(1.0))

    def record(self, fault: str, seconds: float) -> None:
        """Record a measurement."""
        record(fault, seconds, self.slowness)


@contextlib.contextmanager
def whole_node(
    folder: Path,
    cameras: dict[str, Any] | None = None,
    *,
    whole_cameras: Iterable[str] | None = None,
    **sections: Any,
) -> Iterator[tuple[Node, Machine]]:
    """Run a node until the test ends; yield it when all its cameras, or the given ones, work end to end.

    Without the motion gate: a result proves that the model works.
    """
    started_s = time.monotonic()
    sections = {"detect": {"motion_gate_s": 0}} | sections
    cameras = STREET if cameras is None else cameras
    with running_node(folder, cameras, **sections) as node:
        for camera in cameras if whole_cameras is None else whole_cameras:
            try:
                wait_for(lambda: whole(node, started_s, camera), 150)
            except AssertionError:
                raise AssertionError(f"the node did not start working: {node.log_tail()}") from None
        yield node, Machine(time.monotonic() - started_s)
