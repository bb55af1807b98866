"""Whether Triton survives `kill -9` of the owner of the CUDA regions in the middle of an inference.

    python benchmarks/gpu/kill_exporter.py [MODEL.onnx] [--at-once 4] [--json FILE]

A separate process publishes frames in device memory, and is killed while several inferences on them are in progress.
The results show what became of those, and whether the server still infers from system shared memory and from the device
memory of a new process. The detector's fallback relies on `context_survives`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rig import FULL_HD, BenchGpu, DeviceCamera, need_gpu, report, serving

from common import argument_parser, role_of
from serving import CAMERA
from tridetr.config import Config
from tridetr.errors import TridetrError
from tridetr.shm.frames import DeviceFrameLease, DeviceFrameReader, FrameReader
from tridetr.shm.hold import DeviceHold
from tridetr.triton.client import TritonClient

RATE = 30
BEFORE = 40  # inferences before the kill
AFTER_S = 5.0


def export(instance: str) -> None:
    """Publish frames until killed."""
    gpu = BenchGpu.open()
    width, height = FULL_HD
    planes = np.random.default_rng(0).integers(0, 256, (height * 3 // 2, width), np.uint8)
    with DeviceCamera(gpu, instance, FULL_HD) as camera:
        number = 0
        while True:
            number += 1
            camera.publish(number, planes)
            time.sleep(1 / RATE)


@contextlib.contextmanager
def exporter(config: Config) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, __file__, "--export", config.instance])
    try:
        yield child
    finally:
        child.kill()
        child.wait()


async def newest(
    reader: DeviceFrameReader, child: subprocess.Popen[bytes], dead_epoch: int = 0
) -> DeviceFrameLease:
    """Wait for a frame of a live exporter, not for one that a dead exporter left in the ring."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and child.poll() is None:
        lease = reader.lease_newest()
        if lease is not None and reader.is_written() and lease.device.region.epoch != dead_epoch:
            return lease
        if lease is not None:
            lease.release()
        await asyncio.sleep(0.01)
    raise SystemExit("the exporter publishes no frames (see above)")


async def outcome(client: TritonClient, frame: Any) -> str:
    """Run one inference and return its outcome."""
    try:
        await asyncio.wait_for(client.infer(frame), 20)
    except TridetrError as error:
        return f"{type(error).__name__}: {str(error)[:160]}"
    except asyncio.TimeoutError:
        return "no answer within 20 s"
    return "ok"


async def several(client: TritonClient, frame: Any, count: int = 10) -> dict[str, int]:
    return dict(Counter([await outcome(client, frame) for _ in range(count)]))


def server_of(config: Config) -> psutil.Process | None:
    """Return the process of the server."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if role_of(process) == "tritonserver" and str(config.run_dir) in " ".join(
                process.cmdline()
            ):
                return process
    return None


async def experiment(config: Config, at_once: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"under_way_when_killed": at_once}
    server = server_of(config)
    with (
        DeviceFrameReader(config.instance, CAMERA, None) as reader,
        FrameReader(config.instance, CAMERA, None) as host_reader,
    ):
        async with TritonClient(config) as client:
            with exporter(config) as child:
                lease = await newest(reader, child)
                host = host_reader.lease_newest()
                assert host is not None
                with lease, host:
                    place = lease.device
                    epoch = place.region.epoch
                    # The exporter must not free the memory; it must be lost with the process
                    with DeviceHold(place.region):
                        await client.register(place.region)
                        await client.register(host.region)
                        figures["before"] = await several(client, place, BEFORE)
                        under_way = [
                            asyncio.create_task(outcome(client, place)) for _ in range(at_once)
                        ]
                        await asyncio.sleep(0.002)
                        child.send_signal(signal.SIGKILL)
                        child.wait()
                        figures["under_way"] = dict(Counter(await asyncio.gather(*under_way)))
                        figures["the_dead_ones_region"] = await several(client, place)
                        figures["system_memory"] = await several(client, host)
                        with contextlib.suppress(TridetrError):
                            await client.unregister(place.region)
            await asyncio.sleep(AFTER_S)
            with exporter(config) as child:
                lease = await newest(reader, child, epoch)
                with lease:
                    place = lease.device
                    with DeviceHold(place.region):
                        try:
                            await client.register(place.region)
                            figures["a_new_ones_region"] = await several(client, place)
                            await client.unregister(place.region)
                        except TridetrError as error:
                            figures["a_new_ones_region"] = {f"not registered: {error}": 1}
    after = server_of(config)
    figures["server_restarted"] = server is None or after is None or server.pid != after.pid
    figures["context_survives"] = (
        not figures["server_restarted"]
        and set(figures["system_memory"]) == {"ok"}
        and set(figures["a_new_ones_region"]) == {"ok"}
    )
    return figures


def main() -> None:
    made = argument_parser(__doc__)
    made.add_argument("model", type=Path, nargs="?", help="default: the bundled model")
    made.add_argument("--at-once", type=int, default=4, help="inferences in progress at the kill")
    made.add_argument("--export", help="internal: publish frames for this instance")
    options = made.parse_args()
    need_gpu()
    if options.export:
        export(options.export)
        return
    with serving(options.model) as config:
        figures = asyncio.run(experiment(config, options.at_once))
    report("kill_exporter", options, figures)


if __name__ == "__main__":
    main()
