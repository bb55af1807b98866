"""CPU by number of cameras and viewers; memory of each process; time of a start.

    python benchmarks/scaling.py [--cameras 1 2 4 8 --viewers 1 10 50 --seconds 8] [--json FILE]

Real nodes, from H.264 files that play in real time. `cameras`: the whole node without viewers, all cameras in
standby: 3 frames a second of each are detected while capture decodes all 30. `viewers`: one camera and the gateway; all
watch the whole picture at full rate. CPU in per cent of one core, memory in MiB (proportional share of what is shared).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import websockets

from clips import join
from common import answers, argument_parser, machine, node, roles, wait_for, write_json
from decode import write_clip
from tridetr.ports import free_port
from tridetr.shm.detections import DetectionReader
from tridetr.shm.names import unlink_instance

H264 = ("libx264", "yuv420p", {"preset": "veryfast", "tune": "zerolatency"})


def configuration(
    folder: Path, clip: Path, cameras: int, instance: str, standby_fps: float, **sections: Any
) -> dict[str, Any]:
    """Return the configuration of a node."""
    port = free_port()
    return {
        "instance": instance,
        "cameras": {f"cam{number}": {"source": str(clip)} for number in range(cameras)},
        "alarm": {"min_score": 0.9999},  # whatever the model detects, all stay in standby
        "sentry": {"standby_fps": standby_fps},
        "mqtt": {"host": "embedded", "port": 0, "discovery_prefix": None},
        "gateway": {"host": "127.0.0.1", "port": port},
        "run_dir": str(folder / "run"),
        "state_dir": str(folder / "state"),
        **sections,
    }


def cpu_of(processes: dict[str, psutil.Process]) -> dict[str, float]:
    """Return the CPU time of each process [s]."""
    used = {}
    for role, process in processes.items():
        with contextlib.suppress(psutil.Error):
            used[role] = sum(process.cpu_times()[:2])
    return used


def rates(before: dict[str, float], after: dict[str, float], seconds: float) -> dict[str, float]:
    """Return the CPU of each kind of process in per cent of one core; captures are added up."""
    found: dict[str, float] = {}
    for role, used in after.items():
        kind = role.split()[0]
        found[kind] = found.get(kind, 0.0) + 100 * (used - before.get(role, used)) / seconds
    return {kind: round(value, 1) for kind, value in sorted(found.items())}


@contextlib.contextmanager
def running(
    clip: Path,
    cameras: int,
    only: tuple[str, ...] = (),
    standby_fps: float = 3.0,
    **sections: Any,
) -> Iterator[tuple[psutil.Process, dict[str, Any], Path]]:
    """Run a node, and remove everything of it afterwards."""
    instance = f"bench{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="tridetr-bench-") as name:
        config = configuration(Path(name), clip, cameras, instance, standby_fps, **sections)
        try:
            with node(config, Path(name), only) as process:
                yield process, config, Path(name) / "log"
        finally:
            unlink_instance(instance, list(config["cameras"]))


def newest(readers: list[DetectionReader]) -> int:
    """Return the number of results so far."""
    count = 0
    for reader in readers:
        if (lease := reader.lease_newest()) is not None:
            with lease:
                count += lease.sequence
    return count


def with_cameras(
    clip: Path, cameras: int, seconds: float, standby_fps: float, **sections: Any
) -> dict[str, Any]:
    """Measure a whole node."""
    began = time.monotonic()
    with running(clip, cameras, standby_fps=standby_fps, **sections) as (process, config, log):
        readers = [DetectionReader(config["instance"], name, None) for name in config["cameras"]]
        wait_for(lambda: all(newest([reader]) for reader in readers), process, log)
        start_s = time.monotonic() - began
        while time.monotonic() < began + start_s + 20:  # until all cameras are in standby
            had = newest(readers)
            time.sleep(1)
            if newest(readers) - had <= (standby_fps + 1) * cameras:
                break
        parts = roles(process)
        before, at, had = cpu_of(parts), time.monotonic(), newest(readers)
        time.sleep(seconds)
        took = time.monotonic() - at
        cpu = rates(before, cpu_of(parts), took)
        results = (newest(readers) - had) / took / cameras
        memory: dict[str, int] = {}
        for role, part in parts.items():
            memory[role.split()[0]] = round(part.memory_full_info().pss / 2**20)
        for reader in readers:
            reader.close()
    return {
        "until_first_results_s": round(start_s, 2),
        "results_per_second_and_camera": round(results, 2),
        "cpu_percent": cpu,
        "cpu_percent_per_camera": round(sum(cpu.values()) / cameras, 1),
        "memory_mib": memory,
    }


async def watch(port: int, counts: list[int], number: int) -> None:
    """Receive frames like a viewer that shows each of them."""
    async with websockets.connect(f"ws://127.0.0.1:{port}/ws/cam0", max_size=None) as viewer:
        async for message in viewer:
            counts[number] += b'"type":"frame"' in message[4:120]


async def all_watch(
    process: psutil.Process, port: int, viewers: int, seconds: float
) -> tuple[dict[str, float], float]:
    """Return CPU and frames per second and viewer."""
    counts = [0] * viewers
    tasks = [asyncio.create_task(watch(port, counts, number)) for number in range(viewers)]
    try:
        while not all(counts):
            for task in tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.1)
        parts = roles(process)
        before, at, had = cpu_of(parts), time.monotonic(), sum(counts)
        await asyncio.sleep(seconds)
        took = time.monotonic() - at
        return rates(before, cpu_of(parts), took), (sum(counts) - had) / took / viewers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def with_viewers(clip: Path, steps: list[int], seconds: float) -> dict[str, Any]:
    """Measure a camera and the gateway."""
    figures: dict[str, Any] = {}
    with running(clip, 1, ("capture cam0", "gateway")) as (process, config, log):
        port = config["gateway"]["port"]
        wait_for(lambda: answers(port), process, log)
        for viewers in steps:
            cpu, fps = asyncio.run(all_watch(process, port, viewers, seconds))
            figures[str(viewers)] = {
                "cpu_percent": cpu,
                "frames_per_second_each": round(fps, 1),
                "gateway_ms_per_frame_and_viewer": round(
                    cpu["serve"] * 10 / max(1e-9, fps * viewers), 3
                ),
            }
    return figures


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--cameras", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--viewers", type=int, nargs="*", default=[1, 10, 50])
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--seconds", type=float, default=8, help="duration of each step")
    parser.add_argument(
        "--every-frame",
        action="store_true",
        help="all 30 frames a second to the model, as when alarmed",
    )
    parser.add_argument(
        "--motion-gate",
        type=float,
        metavar="S",
        help="detect.motion_gate_s (0 = inference on every frame)",
    )
    parser.add_argument("--still", action="store_true", help="a picture without motion")
    parser.add_argument("--model", type=Path, help="fused model (default: the bundled model)")
    options = parser.parse_args()
    sections: dict[str, Any] = {}
    if options.motion_gate is not None:
        sections["detect"] = {"motion_gate_s": options.motion_gate}
    if options.model is not None:
        sections["model"] = {"file": str(options.model)}
    standby_fps = 60.0 if options.every_frame else 3.0
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        short = Path(folder) / "short.mp4"
        write_clip(short, *H264, (options.width, options.height), 0 if options.still else 6)
        join([short] * 60, clip)
        result = {
            "benchmark": "scaling",
            "machine": machine(),
            "frame": {"width": options.width, "height": options.height},
            "cameras": {
                str(number): with_cameras(clip, number, options.seconds, standby_fps, **sections)
                for number in options.cameras
            },
            "viewers": with_viewers(clip, options.viewers, options.seconds)
            if options.viewers
            else {},
        }
    print(json.dumps({key: result[key] for key in ("cameras", "viewers")}, indent=2))
    write_json(options, result)


if __name__ == "__main__":
    main()
