"""Cost of shared memory: publishing, leasing, wake-ups, writing and reading detections. Microseconds.

    python benchmarks/ipc.py [--width 1920 --height 1080 --rounds 4000] [--json FILE]

All cases take turns within one run, each call is timed individually, and the time of an empty call is subtracted.
``lock and unlock`` is the kernel's part of a lease. Readers run in this process, except for wake-ups, which are timed
from just before the publication in this process to the reader's return in another one. ``pipe`` is a plain pipe at the
same rate, as the least that a wake-up takes on this machine. "At once" publishes as soon as the reader has answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from common import argument_parser, machine, summary, write_json
from tridetr.shm import locks
from tridetr.shm.detections import (
    DETECTION_DTYPE,
    DetectionReader,
    DetectionWriter,
    ResultStamp,
)
from tridetr.shm.frames import ColorMatrix, ColorRange, FrameReader, FrameStamp, FrameWriter
from tridetr.shm.layout import SLOT_BYTE
from tridetr.shm.names import unlink_instance
from tridetr.shm.wakeup import Wakeup

COUNTS = (0, 1, 5, 50, 300)
BLOCK = 20


def take_turns(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Time all cases in turn, some calls each; return microseconds without the time of an empty call."""
    clock = time.perf_counter_ns
    empty: Callable[[], object] = lambda: None  # noqa: E731
    samples: dict[str, list[float]] = {name: [] for name in cases}
    nothing = []
    for _ in range(max(1, rounds // BLOCK)):
        for _ in range(BLOCK):
            began = clock()
            empty()
            nothing.append(clock() - began)
        for name, case in cases.items():
            case()  # brings its code and data into the caches
            for _ in range(BLOCK):
                began = clock()
                case()
                samples[name].append((clock() - began) / 1e3)
    overhead = median(nothing) / 1e3
    return {name: summary([value - overhead for value in row]) for name, row in samples.items()}


def stamp(number: int) -> FrameStamp:
    """Return the stamp of a frame captured now."""
    now = time.monotonic_ns()
    return FrameStamp(number, now, now, ColorRange.LIMITED, ColorMatrix.BT709)


def frame_cases(
    writer: FrameWriter, reader: FrameReader, picture: np.ndarray[Any, Any]
) -> dict[str, Callable[[], object]]:
    """Return the cases of publishing and leasing frames."""
    fixed = stamp(1)

    def publish() -> None:
        slot = writer.begin()
        assert slot is not None
        writer.publish(slot, fixed)

    def copy_and_publish() -> None:
        slot = writer.begin()
        assert slot is not None
        slot.planes[:] = picture
        writer.publish(slot, fixed)

    def lease() -> None:
        found = reader.lease_newest()
        assert found is not None
        found.release()

    def lease_and_look() -> None:
        found = reader.lease_newest()
        assert found is not None
        with found:
            _ = found.stamp, found.planes, found.pixels_offset

    publish()
    found = reader.lease_newest()
    assert found is not None
    with found:
        region = os.open(f"/dev/shm/{found.region.shm_name}", os.O_RDONLY)
    lock, unlock = locks.shared(SLOT_BYTE + 200), locks.unlock(SLOT_BYTE + 200)

    def lock_and_unlock() -> None:
        locks.apply(region, lock)
        locks.apply(region, unlock)

    return {
        "lock and unlock": lock_and_unlock,
        "frame: lease and release": lease,
        "frame: lease, stamp and planes, release": lease_and_look,
        "frame: publish, decoded in place": publish,
        "frame: copy and publish": copy_and_publish,
    }


def detection_cases(instance: str) -> dict[str, Callable[[], object]]:
    """Return the cases of writing and reading results of several sizes; no reader waits, so each queue is full."""
    cases: dict[str, Callable[[], object]] = {}
    result = ResultStamp(1, 2, 1920, 1080, 3, 4, False, 5, 6, 7, 8, "rfdetr_ort", "1")
    for count in COUNTS:
        rows = np.zeros(count, DETECTION_DTYPE)
        rows["score"] = 0.5
        alone = DetectionWriter(instance, f"alone{count}", consumers=())
        waking = DetectionWriter(instance, f"waking{count}")
        reader = DetectionReader(instance, f"alone{count}", None)

        def read(reader: DetectionReader = reader) -> None:
            lease = reader.lease_newest()
            assert lease is not None
            with lease:
                _ = lease.stamp, lease.detections

        cases[f"detections: write {count}"] = partial(alone.publish, result, rows)
        cases[f"detections: write {count}, wake two"] = partial(waking.publish, result, rows)
        cases[f"detections: read {count}"] = read
    return cases


def await_wakeups(instance: str, way: str, count: int) -> None:
    """Run the reader's process: answer each wake-up with a dot; at the end, print the time of each [µs]."""
    seen: list[float] = []

    def note(sent_ns: int, now_ns: int) -> None:
        seen.append((now_ns - sent_ns) / 1e3)
        os.write(1, b".")

    def look(reader: FrameReader, now_ns: int) -> None:
        lease = reader.lease_newest()
        if lease is None:  # woken by a frame of the last run
            return
        with lease:
            sent_ns = lease.stamp.capture_monotonic_ns
        note(sent_ns, now_ns)

    async def loop(reader: FrameReader, wakeup: Wakeup) -> None:
        done = asyncio.Event()

        def woken() -> None:
            now_ns = time.monotonic_ns()
            wakeup.drain()
            look(reader, now_ns)
            if len(seen) >= count:
                done.set()

        asyncio.get_running_loop().add_reader(wakeup.fileno(), woken)
        await done.wait()

    with FrameReader(instance, "wake", "gateway") as reader:
        wakeup = reader.wakeup
        assert wakeup
        wakeup.drain()
        os.write(1, b"r")
        if way == "asyncio":
            asyncio.run(loop(reader, wakeup))
        while len(seen) < count:
            if way == "pipe":
                data = os.read(0, 8)
                note(int.from_bytes(data, "little"), time.monotonic_ns())
            elif wakeup.wait(5):
                look(reader, time.monotonic_ns())
    print(json.dumps(seen))


def wakeups(instance: str, way: str, pause_s: float, count: int) -> dict[str, float]:
    """Publish small frames for a reader in another process, each after the reader has seen the last one."""
    with FrameWriter(instance, "wake", width=64, height=64, consumers=("gateway",)) as writer:
        argv = [sys.executable, __file__, "--await-wakeups", instance, way, str(count)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdin
            assert child.stdout
            answers, words = child.stdout.fileno(), child.stdin.fileno()
            os.read(answers, 1)
            for number in range(count):
                time.sleep(pause_s)
                if way == "pipe":
                    os.write(words, time.monotonic_ns().to_bytes(8, "little"))
                else:
                    slot = writer.begin()
                    assert slot is not None
                    writer.publish(slot, stamp(number))
                os.read(answers, 1)
            return summary(json.loads(child.stdout.read()))


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--rounds", type=int, default=4000)
    parser.add_argument("--await-wakeups", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.await_wakeups:
        instance, way, count = options.await_wakeups
        await_wakeups(instance, way, int(count))
        return
    instance = f"bench{os.getpid()}"
    size = {"width": options.width, "height": options.height}
    try:
        with (
            FrameWriter(instance, "cam", **size, consumers=()) as writer,
            FrameReader(instance, "cam", "gateway") as reader,
        ):
            shape = (options.height * 3 // 2, options.width)
            picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            figures = take_turns(frame_cases(writer, reader, picture), max(10, options.rounds // 4))
        figures |= take_turns(detection_cases(instance), options.rounds)
        for pace, pause_s in (("at 200 Hz", 0.005), ("at once", 0.0)):
            for way in ("pipe", "thread", "asyncio"):
                name = f"wake-up: {way}, {pace}"
                figures[name] = wakeups(instance, way, pause_s, max(20, options.rounds // 8))
    finally:
        unlink_instance(instance, ["cam", "wake"])
    for name, row in figures.items():
        print(f"{name:45} {row['p50']:9.2f} {row['p95']:9.2f}")
    report = {
        "unit": "us",
        "benchmark": "ipc",
        "machine": machine(),
        "frame": size,
        "figures": figures,
    }
    write_json(options, report)


if __name__ == "__main__":
    main()
