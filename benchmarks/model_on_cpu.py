#!/usr/bin/env python3
"""Time of one inference: plain ONNX Runtime FP32 in this process against the embedded Triton, interleaved.

    python benchmarks/model_on_cpu.py EXPORT.onnx [--runs 30] [--size 1920x1080] [--precision auto]

EXPORT is an RF-DETR export (`tridetr models export`); it is fused here. Both sides use all cores and take turns, so
that a busy machine slows both. Prints one JSON object: milliseconds (p50 and best), the CPU time of one run (which a
busy machine changes least), and ratios to the bare export. ONNX Runtime's threads do not spin: CPU time is work.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import mmap
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil

from tridetr.config import Config
from tridetr.models.coco import COCO_91
from tridetr.models.fuse import fuse
from tridetr.triton import service
from tridetr.triton.client import TritonClient
from tridetr.triton.endpoint import read_endpoint
from tridetr.triton.errors import ModelUnavailable


@dataclass(frozen=True)
class Region:
    shm_name: str
    size_bytes: int


@dataclass(frozen=True)
class Frame:
    region: Region
    width: int
    height: int
    pixels_offset: int
    pixels_nbytes: int


async def measure(
    config: Config, bare: Path, fused: Path, size: tuple[int, int], runs: int
) -> dict:
    width, height = size
    planes = np.random.default_rng(0).integers(0, 256, (1, height * 3 // 2, width), np.uint8)
    calm = onnxruntime.SessionOptions()
    calm.add_session_config_entry("session.intra_op.allow_spinning", "0")
    sessions = {
        name: onnxruntime.InferenceSession(str(path), calm, providers=["CPUExecutionProvider"])
        for name, path in (("bare", bare), ("fused", fused))
    }
    entry = sessions["bare"].get_inputs()[0]
    picture = np.random.default_rng(0).normal(size=(1, *entry.shape[1:])).astype(np.float32)
    name = f"tridetr-{config.instance}-bench-frames-1"
    path = Path("/dev/shm") / name
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    times: dict[str, list[float]] = {"ort_fp32_bare": [], "ort_fp32_fused": [], "triton": []}
    cpu = dict.fromkeys(times, 0.0)
    try:
        os.posix_fallocate(descriptor, 0, planes.nbytes)
        with mmap.mmap(descriptor, planes.nbytes) as memory:
            memory[:] = planes.tobytes()
        frame = Frame(Region(name, planes.nbytes), width, height, 0, planes.nbytes)
        async with TritonClient(config) as client:
            while True:
                with contextlib.suppress(ModelUnavailable):
                    info = await client.model()
                    break
                await asyncio.sleep(0.1)
            await client.register(frame.region)
            (stub,) = psutil.Process(read_endpoint(config.run_dir).pid).children()
            for run in range(-3, runs):
                if run == 0:
                    cpu = dict.fromkeys(times, 0.0)
                    at_start = sum(stub.cpu_times()[:2])
                for name, inputs in (("bare", {entry.name: picture}), ("fused", {"frame": planes})):
                    began, used = time.perf_counter(), time.process_time()
                    sessions[name].run(None, inputs)
                    times[f"ort_fp32_{name}"].append(time.perf_counter() - began)
                    cpu[f"ort_fp32_{name}"] += time.process_time() - used
                began = time.perf_counter()
                await client.infer(frame)
                times["triton"].append(time.perf_counter() - began)
            cpu["triton"] = sum(stub.cpu_times()[:2]) - at_start
            await client.unregister(frame.region)
    finally:
        os.close(descriptor)
        path.unlink()
    warm = {key: np.array(values[3:]) * 1e3 for key, values in times.items()}
    return {
        "triton_runs": f"{info.engine} {info.provider} {info.precision}",
        "p50_ms": {key: round(float(np.median(values)), 1) for key, values in warm.items()},
        "best_ms": {key: round(float(values.min()), 1) for key, values in warm.items()},
        "cpu_ms": {key: round(value / runs * 1e3, 1) for key, value in cpu.items()},
        "ratio_cpu": round(cpu["triton"] / cpu["ort_fp32_bare"], 3),
        "ratio_p50": round(float(np.median(warm["triton"]) / np.median(warm["ort_fp32_bare"])), 3),
        "ratio_best": round(float(warm["triton"].min() / warm["ort_fp32_bare"].min()), 3),
        "runs": runs,
        "size": f"{width}x{height}",
        "cores": os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("export", type=Path)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory(prefix="tridetr-") as folder:
        fused = Path(folder) / "fused.onnx"
        onnx.save(
            fuse(onnx.load(options.export), classes=COCO_91, source=options.export.name), fused
        )
        config = Config.model_validate({
            "instance": f"bench{os.getpid() % 100_000}",
            "cameras": {"bench": {"source": "synthetic"}},
            "model": {"file": str(fused), "precision": options.precision},
            "triton": {"metrics_port": 0},
            "run_dir": f"{folder}/run",
        })  # fmt: skip
        stop = threading.Event()
        server = threading.Thread(target=service.run, args=(config, stop))
        server.start()
        try:
            result = asyncio.run(
                measure(config, options.export, fused, (width, height), options.runs)
            )
        finally:
            stop.set()
            server.join()
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
