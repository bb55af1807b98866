"""Run one end of a frame ring as a process: ``python -m support.ring_process ROLE INSTANCE …``.

The roles print a line when they are ready, and a JSON object when they end (stdin closed).
"""

from __future__ import annotations

import json
import sys
import threading
import time
import zlib

import numpy as np

from support.rings import frame_stamp, put_frame, wakeup_of
from tridetr.shm.frames import FrameLease, FrameReader, FrameWriter

WIDTH, HEIGHT = 320, 240
# More than there are slots, so that the previous picture in a slot is always another one
PICTURES = 61


def pictures() -> list[np.ndarray[tuple[int, int], np.dtype[np.uint8]]]:
    """Return pictures of noise, so that a mix of two halves has the checksum of neither."""
    dice = np.random.default_rng(5)
    shape = (HEIGHT * 3 // 2, WIDTH)
    return [dice.integers(0, 256, shape, np.uint8) for _ in range(PICTURES)]


def checksum(lease: FrameLease) -> int:
    """Return the checksum of a frame."""
    return zlib.crc32(lease.planes.data)


def until_stdin_closes() -> threading.Event:
    """Return an event that is set when the parent closes this process's stdin, or dies."""
    stop = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait, daemon=True).start()
    return stop


def write_at_full_speed(instance: str, slots: int) -> None:
    """Publish frames with the checksum of their pixels in the stamp, and their sequence number as frame number."""
    stop = until_stdin_closes()
    noise = pictures()
    sums = [zlib.crc32(picture.data) for picture in noise]
    refused = 0
    with FrameWriter(instance, "cam", width=WIDTH, height=HEIGHT, slots=slots) as writer:
        print("ready", flush=True)
        sequence = 0
        while not stop.is_set():
            slot = writer.begin()
            if slot is None:
                refused += 1
                continue
            number = sequence + 1
            slot.planes[:] = noise[number % PICTURES]
            stamp = frame_stamp(number, capture_unix_ns=sums[number % PICTURES])
            sequence = writer.publish(slot, stamp)
    print(json.dumps({"published": sequence, "refused": refused}))


def read_at_full_speed(instance: str, consumer: str, hold_s: float) -> None:
    """Check frames as fast as possible: their checksum before and after holding them, number, and order."""
    stop = until_stdin_closes()
    counts = {"frames": 0, "torn": 0, "stale": 0, "changed": 0}
    with FrameReader(instance, "cam", consumer) as reader:
        print("ready", flush=True)
        after = 0
        while not stop.is_set():
            lease = reader.lease_newest(after)
            if lease is None:
                wakeup_of(reader).wait(0.05)
                continue
            with lease:
                stamp = lease.stamp
                counts["frames"] += 1
                counts["torn"] += checksum(lease) != stamp.capture_unix_ns
                counts["stale"] += lease.sequence <= after or stamp.frame_number != lease.sequence
                if hold_s:
                    time.sleep(hold_s)
                    counts["changed"] += checksum(lease) != stamp.capture_unix_ns
                    counts["changed"] += lease.stamp != stamp
                after = lease.sequence
        counts["damaged"] = reader.damaged
    print(json.dumps(counts))


def hold_a_lease(instance: str) -> None:
    """Lease the newest frame and keep the lease."""
    reader = FrameReader(instance, "cam", "gateway")
    lease = reader.lease_newest()
    assert lease is not None
    print(f"holding {lease.sequence}", flush=True)
    sys.stdin.read()


def die_while_writing(instance: str) -> None:
    """Publish frames with the values 1 to 9, and write half of another."""
    writer = FrameWriter(instance, "cam", width=WIDTH, height=HEIGHT)
    for value in range(1, 10):
        put_frame(writer, value)
    slot = writer.begin()
    assert slot is not None
    slot.y[:] = 66
    print("writing", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    if role == "write":
        write_at_full_speed(arguments[0], int(arguments[1]))
    elif role == "read":
        read_at_full_speed(arguments[0], arguments[1], float(arguments[2]))
    elif role == "hold":
        hold_a_lease(*arguments)
    elif role == "half":
        die_while_writing(*arguments)
