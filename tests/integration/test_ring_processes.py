"""Rings between processes: at full speed, and with processes killed at the worst moments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.ring_process import HEIGHT, WIDTH
from support.rings import put_frame, wakeup_of
from tridetr.shm.frames import FrameReader, FrameWriter
from tridetr.shm.names import list_instance

SECONDS = float(os.environ.get("TRIDETR_RING_SECONDS", "8"))
_TESTS = Path(__file__).parents[1]


class Child:
    """A process of ``support.ring_process``; ready when this returns."""

    def __init__(self, *words: str) -> None:
        argv = [sys.executable, "-m", "support.ring_process", *words]
        path = os.pathsep.join(filter(None, [str(_TESTS), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path}
        self.process = subprocess.Popen(
            argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.said = self.process.stdout.readline().strip()

    def finish(self) -> dict[str, Any]:
        """Wait for the process to end; return its counts."""
        out, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return dict(json.loads(out))

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self.process.kill()
        self.process.communicate()


Start = Callable[..., Child]


@pytest.fixture
def start(instance: str) -> Iterator[Start]:
    """Yield a function that starts children; remaining ones are killed at the end."""
    children = []

    def begin(role: str, *words: str) -> Child:
        children.append(Child(role, instance, *words))
        return children[-1]

    yield begin
    for child in children:
        if child.process.poll() is None:
            child.kill()


def test_no_reader_ever_sees_a_torn_or_stale_frame(start: Start) -> None:
    """Four readers, two of which hold their frames for a long time, and a writer that never waits."""
    readers = [
        start("read", "detector", "0"),
        start("read", "gateway", "0"),
        start("read", "detector", "0.01"),
        start("read", "gateway", "0.003"),
    ]
    writer = start("write", "7")
    time.sleep(SECONDS)
    written = writer.finish()
    counts = [reader.finish() for reader in readers]
    assert written["published"] > 50 * SECONDS
    for count in counts:
        assert count["frames"] > 2 * SECONDS
        assert {key: count[key] for key in ("torn", "stale", "changed", "damaged")} == {
            "torn": 0,
            "stale": 0,
            "changed": 0,
            "damaged": 0,
        }


def frame_writer(instance: str, **changes: Any) -> FrameWriter:
    sizes = {"width": WIDTH, "height": HEIGHT}
    return FrameWriter(instance, "cam", **sizes | changes)


def test_reader_killed_inside_a_lease_blocks_no_one(instance: str, start: Start) -> None:
    slots = 4
    with frame_writer(instance, slots=slots) as writer:
        put_frame(writer, 1)
        held = [start("hold")]
        for value in range(2, slots + 1):
            put_frame(writer, value)
            held.append(start("hold"))
        assert [child.said for child in held] == [
            f"holding {number}" for number in range(1, slots + 1)
        ]
        assert writer.begin() is None  # all slots are leased
        for child in held:
            child.kill()
        sequences = [put_frame(writer, value) for value in range(20)]
        assert None not in sequences
        with FrameReader(instance, "cam", "gateway") as reader:
            lease = reader.lease_newest()
            assert lease is not None
            assert (lease.sequence, int(lease.planes.min())) == (sequences[-1], 19)


def test_writer_killed_inside_a_write_leaves_no_partial_frame(instance: str, start: Start) -> None:
    with FrameReader(instance, "cam", "detector") as reader:
        first = start("half")
        assert first.said == "writing"
        lease = reader.lease_newest()
        assert lease is not None
        assert (lease.sequence, int(lease.planes.max())) == (9, 9)
        first.kill()
        whole: list[int] = []
        while (old := reader.lease_next(whole[-1] if whole else 0)) is not None:
            with old:
                assert old.planes.min() == old.planes.max() == old.sequence
                whole.append(old.sequence)
        assert whole == [9]  # two slots take turns; the one that held 8 was half overwritten
        with frame_writer(instance) as writer:
            assert reader.lease_newest() is None  # the new writer starts with an empty ring
            for value in range(10, 22):
                sequence = put_frame(writer, value)
                fresh = reader.lease_newest()
                assert fresh is not None
                with fresh:
                    assert fresh.sequence == sequence
                    assert fresh.planes.min() == fresh.planes.max() == value
            assert int(lease.planes.max()) == 9  # leased before the crash, and still intact
        assert wakeup_of(reader).drain()
    assert len(list_instance(instance)) == 1
