"""A packet ring between processes: at full speed, with either end killed at random moments."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from support.packets import put_packet, stream_info
from tridetr.shm.names import list_instance
from tridetr.shm.packets import PacketReader, PacketWriter

SECONDS = float(os.environ.get("TRIDETR_RING_SECONDS", "6"))
_TESTS = Path(__file__).parents[1]


@contextlib.contextmanager
def child(role: str, instance: str) -> Iterator[subprocess.Popen[str]]:
    path = os.pathsep.join(filter(None, [str(_TESTS), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "support.packet_process", role, instance],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_killed_writers_and_readers_leave_no_torn_packets(instance: str) -> None:
    dice = random.Random(7)
    writers = 0
    with child("read", instance) as reader:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            with child("write", instance), child("read", instance):
                writers += 1
                time.sleep(dice.uniform(0.1, 0.6))  # then both are killed
        out, _ = reader.communicate(timeout=30)
    counts = json.loads(out)
    assert counts["read"] > 100 * writers
    assert (counts["torn"], counts["misplaced"], counts["damaged"]) == (0, 0, 0)
    assert len(list_instance(instance)) == 1
    # The ring can still be used.
    with (
        PacketWriter(instance, "cam", seconds=1, max_mib=2) as writer,
        PacketReader(instance, "cam") as after,
    ):
        writer.start_stream(stream_info())
        for number in range(500):
            assert put_packet(writer, number, key=number % 10 == 0, size=50_000) is not None
            packet = after.read()
            assert packet is not None
            assert packet.lost == 0
