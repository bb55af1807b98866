"""A Btrfs, or its quota, is full: mapped memory cannot be written either, and a process that does ends with SIGBUS."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.mosquitto import listening, running_mosquitto
from support.sentry import EMPTY, PERSON, running_controller
from support.small_disks import fill, mounted
from support.waiting import wait_for

_READ = """
import sys
from pathlib import Path
from tridetr.controller.history import read_history
print(len(read_history(Path(sys.argv[1]))))
"""


@pytest.fixture(params=["disk", "quota"])
def btrfs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on a Btrfs that `fill` fills: the disk, or the quota of the folder."""
    with mounted(tmp_path, "btrfs", 160) as (_, disk):
        if request.param == "disk":
            yield disk
            return
        folder = disk / "part"
        for line in (
            ("quota", "enable", disk),
            ("subvolume", "create", folder),
            ("qgroup", "limit", "20M", folder),
        ):
            subprocess.run(["btrfs", *line], check=True, capture_output=True)
        yield folder


def test_a_full_btrfs_ends_neither_the_controller_nor_a_reader(tmp_path: Path, btrfs: Path) -> None:
    """The controller was killed at its next save: the visitor was reported again, and a disarmed node was armed."""
    state = btrfs / "state"
    settings: dict[str, Any] = {"state_dir": str(state)}
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path / "node", {"port": broker.port}, **settings) as (
            controller,
            actor,
        ),
    ):
        process = controller.process
        assert process is not None
        wait_for(lambda: ear.last("/availability") == b"online")
        actor.show_and_wait(PERSON, 8)
        wait_for(lambda: len(ear.events()) == 1)
        ballast = fill(btrfs)
        os.sync()  # what is mapped needs new blocks from now on
        actor.show_and_wait(EMPTY, 40)
        wait_for(lambda: process.poll() is not None or len(ear.events()) == 2)
        wait_for(lambda: process.poll() is not None or b"full" in (ear.last("/hall/status") or b""))
        assert process.poll() is None, controller.log()
        assert [event["kind"] for event in ear.events()] == ["person_arrived", "person_left"]
        os.sync()
        line = [sys.executable, "-c", _READ, str(state)]
        read = subprocess.run(line, capture_output=True, text=True)
        assert (read.returncode, read.stdout) == (0, "1\n")
        ballast.unlink()
        os.sync()
        wait_for(lambda: b'"store":"ok"' in (ear.last("/hall/status") or b""), 60)
        read = subprocess.run(line, capture_output=True, text=True)
        assert (read.returncode, read.stdout) == (0, "2\n")
