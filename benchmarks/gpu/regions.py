"""A CUDA region compared with system shared memory: the same frame, model and client, in turn.

    python benchmarks/gpu/regions.py [MODEL.onnx] [--runs 200 --width 1920 --height 1080] [--json FILE]

The embedded Triton serves the model on the GPU (`pip install onnxruntime-gpu` in place of onnxruntime-openvino). One
frame is in a ring with device memory; the client refers to it once by its location in /dev/shm and once by its
location on the GPU. `upload_ms` is what the gpu process does for each frame: lease, copy to the device, publish.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
from rig import FULL_HD, BenchGpu, DeviceCamera, report, serving

from common import argument_parser, summary
from serving import CAMERA
from tridetr.config import Config
from tridetr.shm.frames import DeviceFrameReader, FrameReader
from tridetr.triton.client import TritonClient

WARM_UP = 10


async def measure(
    config: Config, gpu: BenchGpu, size: tuple[int, int], runs: int
) -> dict[str, Any]:
    width, height = size
    planes = np.random.default_rng(0).integers(0, 256, (height * 3 // 2, width), np.uint8)
    publishing: list[float] = []
    times: dict[str, list[float]] = {"system": [], "cuda": []}
    with (
        DeviceCamera(gpu, config.instance, size) as camera,
        FrameReader(config.instance, CAMERA, None) as host_reader,
        DeviceFrameReader(config.instance, CAMERA, None) as device_reader,
    ):
        for number in range(WARM_UP + 50):
            camera.write(number, planes)
            began = time.perf_counter()
            camera.upload()
            if number >= WARM_UP:
                publishing.append((time.perf_counter() - began) * 1e3)
        lease, device = host_reader.lease_newest(), device_reader.lease_newest()
        assert lease is not None
        assert device is not None
        with lease, device:
            place = device.device
            async with TritonClient(config) as client:
                info = await client.model()
                await client.register(lease.region)
                await client.register(place.region)
                for run in range(-WARM_UP, runs):
                    for name, frame in (("system", lease), ("cuda", place)):
                        began = time.perf_counter()
                        await client.infer(frame)
                        if run >= 0:
                            times[name].append((time.perf_counter() - began) * 1e3)
                await client.unregister(place.region)
                await client.unregister(lease.region)
    difference = np.median(times["system"]) - np.median(times["cuda"])
    return {
        "model": {"name": info.name, "engine": info.engine, "provider": info.provider},
        "upload_ms": summary(publishing),
        "infer_ms": {name: summary(values) for name, values in times.items()},
        "cuda_saves_ms": round(float(difference), 3),
    }


def main() -> None:
    made = argument_parser(__doc__)
    made.add_argument("model", type=Path, nargs="?", help="default: the bundled model")
    made.add_argument("--runs", type=int, default=200)
    made.add_argument("--width", type=int, default=FULL_HD[0])
    made.add_argument("--height", type=int, default=FULL_HD[1])
    options = made.parse_args()
    gpu = BenchGpu.open()
    with serving(options.model) as config:
        size = (options.width, options.height)
        figures = asyncio.run(measure(config, gpu, size, options.runs))
    gpu.close()
    report("regions", options, {"frame": {"width": size[0], "height": size[1]}, **figures})


if __name__ == "__main__":
    main()
