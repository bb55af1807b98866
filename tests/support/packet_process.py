"""Run one end of a packet ring as a process: ``python -m support.packet_process write|read INSTANCE``.

Both print a line when they are ready; the reader also prints a JSON object when it ends (stdin closed).
"""

from __future__ import annotations

import json
import random
import sys
import time
import zlib

from support.packets import stream_info
from support.ring_process import until_stdin_closes
from tridetr.shm.packets import PacketReader, PacketStamp, PacketWriter

GROUP = 10


def write(instance: str) -> None:
    """Publish packets at full speed; the pts of each is the checksum of its bytes."""
    stop = until_stdin_closes()
    dice = random.Random(5)
    noise = dice.randbytes(1 << 20)
    with PacketWriter(instance, "cam", seconds=1, max_mib=2) as writer:
        writer.start_stream(stream_info())
        print("ready", flush=True)
        number = 0
        while not stop.is_set():
            at, size = dice.randrange(900_000), dice.randrange(100_000)
            data = noise[at : at + size]
            writer.put(
                data,
                PacketStamp(
                    time.monotonic_ns(),
                    time.time_ns(),
                    pts=zlib.crc32(data),
                    dts=number % GROUP,
                    is_key=number % GROUP == 0,
                ),
            )
            number += 1


def read(instance: str) -> None:
    """Count the packets, and check that they are intact, in order, and resumed at key frames."""
    stop = until_stdin_closes()
    counts = {"read": 0, "torn": 0, "misplaced": 0, "lost": 0}
    before = 0
    with PacketReader(instance, "cam") as reader:
        print("ready", flush=True)
        while not stop.is_set():
            packet = reader.read()
            if packet is None:
                continue
            counts["read"] += 1
            counts["lost"] += packet.lost
            counts["torn"] += zlib.crc32(packet.data) != packet.pts
            gap = packet.sequence - before - 1
            if (gap and not packet.is_key) or (before and gap != packet.lost):
                counts["misplaced"] += 1
            before = packet.sequence
        counts["damaged"] = reader.damaged
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](sys.argv[2])
