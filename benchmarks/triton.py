"""Triton measured by NVIDIA's perf_analyzer: with and without shared memory, concurrent requests, batches.

    python benchmarks/triton.py [MODEL.onnx] [--width 1920 --height 1080 --seconds 10 --cuda] [--json FILE]

The embedded server runs the model; the real ``perf_analyzer`` of the tritonclient wheel (fetched once into the cache)
sends frames over the same Unix socket that the detector uses. For comparison, in the same run: tridetr's client.
``p50`` and so on in milliseconds; ``per_second`` is throughput. The difference between `none` and `system` is the cost
of sending the bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from common import argument_parser, machine, summary, write_json
from serving import CAMERA, serving
from tridetr.config import Config
from tridetr.shm.frames import ColorMatrix, ColorRange, FrameReader, FrameStamp, FrameWriter
from tridetr.triton.client import TritonClient
from tridetr.triton.endpoint import read_endpoint

WHEEL = "tritonclient==2.51.0"  # the last version whose perf_analyzer binary works with this server
# Its libraries are in the server's wheel, with a checksum in their names
LIBRARIES = ("libb64.so.0d", "libcudart.so.12")
CASES = (
    ("shared memory none", ("--shared-memory", "none"), 1, 1),
    ("shared memory system", ("--shared-memory", "system"), 1, 1),
    ("shared memory system, 2 at once", ("--shared-memory", "system"), 2, 1),
    ("shared memory system, 4 at once", ("--shared-memory", "system"), 4, 1),
    ("shared memory system, batch 2", ("--shared-memory", "system"), 1, 2),
)
GPU_CASES = (
    ("shared memory cuda", ("--shared-memory", "cuda"), 1, 1),
    ("shared memory cuda, 8 at once", ("--shared-memory", "cuda"), 8, 1),
)


def perf_analyzer(cache: Path) -> tuple[Path, dict[str, str]]:
    """Return the binary, downloaded if it is missing, and the environment that it needs."""
    binary = cache / "perf_analyzer"
    if not binary.exists():
        cache.mkdir(parents=True, exist_ok=True)
        line = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL]
        subprocess.run([*line, "--dest", str(cache)], check=True, stdout=subprocess.DEVNULL)
        (wheel,) = cache.glob("tritonclient-*.whl")
        with zipfile.ZipFile(wheel) as packed:
            (name,) = (n for n in packed.namelist() if n.endswith("bin/perf_analyzer"))
            binary.write_bytes(packed.read(name))
        binary.chmod(0o755)
        wheel.unlink()
    spec = find_spec("pytriton")
    assert spec is not None
    assert spec.origin is not None
    bundled = Path(spec.origin).parents[1] / "nvidia_pytriton.libs"
    for library in LIBRARIES:
        stem, _, end = library.partition(".so.")
        (found,) = bundled.glob(f"{stem}-*.so.{end}*")
        link = cache / library
        link.unlink(missing_ok=True)
        link.symlink_to(found)
    return binary, {**os.environ, "LD_LIBRARY_PATH": f"{cache}:{bundled}"}


def run_perf_analyzer(
    binary: Path,
    environment: dict[str, str],
    config: Config,
    words: tuple[str, ...],
    at_once: int,
    batch: int,
    shape: str,
    seconds: float,
) -> dict[str, float]:
    """Run it once; return milliseconds and requests per second."""
    endpoint = read_endpoint(config.run_dir)
    assert endpoint is not None
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        line = [
            str(binary), "-m", config.model.name, "-i", "grpc", "-u", endpoint.address, "-b", str(batch),
            "--shape", f"frame:{shape}", *words,
            "--concurrency-range", str(at_once), "--percentile", "50", "--max-trials", "3",
            "--measurement-mode", "time_windows", "--measurement-interval", str(int(seconds * 1000 / 3)),
            "--stability-percentage", "999", "-f", str(table), "--verbose-csv",
        ]  # fmt: skip
        for key, value in endpoint.metadata():
            line += ["-H", f"{key}:{value}"]
        interval = line.index("--measurement-interval") + 1
        # On a busy machine, a window can be too short for the required number of requests
        for _ in range(3):
            done = subprocess.run(
                line, env=environment, capture_output=True, text=True, timeout=300
            )
            if done.returncode == 0:
                break
            line[interval] = str(3 * int(line[interval]))
        if done.returncode or not table.exists():
            raise SystemExit(f"perf_analyzer failed:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
        (row,) = list(csv.DictReader(table.open()))
    return {
        "p50": round(float(row["p50 latency"]) / 1e3, 2),
        "p95": round(float(row["p95 latency"]) / 1e3, 2),
        "frames_per_second": round(float(row["Inferences/Second"]), 2),
        "sending_ms": round(float(row["Client Send"]) / 1e3, 3),
        "in_server_queue_ms": round(float(row["Server Queue"]) / 1e3, 3),
        "in_server_input_ms": round(float(row["Server Compute Input"]) / 1e3, 3),
        "in_server_infer_ms": round(float(row["Server Compute Infer"]) / 1e3, 3),
        "in_server_output_ms": round(float(row["Server Compute Output"]) / 1e3, 3),
    }


async def our_client(config: Config, options: argparse.Namespace) -> dict[str, float]:
    """Run inference on a frame of a ring for a while."""
    with (
        FrameWriter(
            config.instance, CAMERA, width=options.width, height=options.height, consumers=()
        ) as writer,
        FrameReader(config.instance, CAMERA, "detector") as reader,
    ):
        slot = writer.begin()
        assert slot is not None
        slot.planes[:] = np.random.default_rng(0).integers(0, 256, slot.planes.shape, np.uint8)
        writer.publish(slot, FrameStamp(1, 1, 1, ColorRange.LIMITED, ColorMatrix.BT601))
        lease = reader.lease_newest()
        assert lease is not None
        took = []
        with lease:
            async with TritonClient(config) as client:
                await client.register(lease.region)
                end = time.monotonic() + options.seconds
                while time.monotonic() < end:
                    began = time.perf_counter()
                    await client.infer(lease)
                    took.append((time.perf_counter() - began) * 1e3)
                await client.unregister(lease.region)
    warm = took[len(took) // 10 :]
    return {**summary(warm), "frames_per_second": round(1e3 * len(warm) / sum(warm), 2)}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("model", type=Path, nargs="?", help="default: the bundled model")
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--seconds", type=float, default=10, help="duration of each case")
    parser.add_argument("--cuda", action="store_true", help="serve on a GPU, and use CUDA regions")
    options = parser.parse_args()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    binary, environment = perf_analyzer(base / "tridetr" / "perf_analyzer")
    figures: dict[str, dict[str, float]] = {}
    place = {"device": "cuda", "provider": "cuda"} if options.cuda else {}
    with serving(options.model, **place) as (config, fused):
        batches = not onnx.load(fused).graph.input[0].type.tensor_type.shape.dim[0].dim_value
        shape = f"{options.height * 3 // 2},{options.width}"
        figures["our client, ring"] = asyncio.run(our_client(config, options))
        for case, words, at_once, batch in (*CASES, *(GPU_CASES if options.cuda else ())):
            if batch == 1 or batches:  # exports have a batch size of 1 by default
                figures[case] = run_perf_analyzer(
                    binary,
                    environment,
                    config,
                    words,
                    at_once,
                    batch,
                    shape if batches else f"1,{shape}",
                    options.seconds,
                )
        figures["our client, ring, again"] = asyncio.run(our_client(config, options))
    result = {
        "benchmark": "triton",
        "machine": machine(),
        "model": options.model.name if options.model else "bundled",
        "frame": {"width": options.width, "height": options.height},
        "figures": figures,
    }
    for case, row in figures.items():
        print(f"{case:34} " + "  ".join(f"{key} {value:g}" for key, value in row.items()))
    write_json(options, result)


if __name__ == "__main__":
    main()
