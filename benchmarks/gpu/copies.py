"""Measure copies between host and device: one frame of 1080p I420 (3.1 MB), pageable and pinned.

    python benchmarks/gpu/copies.py [--runs 200 --width 1920 --height 1080] [--json FILE]

`gpu_ms` is the copy alone by the GPU's clock, `wall_ms` how long the caller waits. The design asks for at most 0.2 ms
to the device from pinned memory; a frame ring's pages are pinned. All cases take turns in one run.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from rig import FULL_HD, BenchGpu, pages, report

from common import argument_parser, summary

TARGET_MS = 0.2
WARM_UP = 10


def main() -> None:
    made = argument_parser(__doc__)
    made.add_argument("--runs", type=int, default=200)
    made.add_argument("--width", type=int, default=FULL_HD[0])
    made.add_argument("--height", type=int, default=FULL_HD[1])
    options = made.parse_args()
    gpu = BenchGpu.open()
    nbytes = options.width * options.height * 3 // 2
    pageable, pinned = pages(nbytes), pages(nbytes)
    gpu.pin(pinned.ctypes.data, nbytes)
    pointer, stream = gpu.allocate(nbytes), gpu.make_stream()
    start, end = gpu.clock(), gpu.clock()
    cases: dict[str, Callable[[], None]] = {
        "to device, pageable": lambda: gpu.upload(pointer, pageable.ctypes.data, nbytes, stream),
        "to device, pinned": lambda: gpu.upload(pointer, pinned.ctypes.data, nbytes, stream),
        "to host, pageable": lambda: gpu.download(pageable.ctypes.data, pointer, nbytes, stream),
        "to host, pinned": lambda: gpu.download(pinned.ctypes.data, pointer, nbytes, stream),
    }
    on_gpu: dict[str, list[float]] = {name: [] for name in cases}
    waited: dict[str, list[float]] = {name: [] for name in cases}
    for run in range(-WARM_UP, options.runs):
        for name, copy in cases.items():
            began = time.perf_counter()
            gpu.record(start, stream)
            copy()
            gpu.record(end, stream)
            gpu.wait(stream)
            wall = (time.perf_counter() - began) * 1e3
            if run >= 0:
                on_gpu[name].append(gpu.elapsed_ms(start, end))
                waited[name].append(wall)
    figures = {
        name: {
            "gpu_ms": summary(on_gpu[name], 4),
            "wall_ms": summary(waited[name], 4),
            "gb_per_s": round(nbytes / 1e6 / float(np.median(on_gpu[name])), 2),
        }
        for name in cases
    }
    best = figures["to device, pinned"]["gpu_ms"]["p50"]
    gpu.unpin(pinned.ctypes.data)
    gpu.free(pointer)
    gpu.close()
    report(
        "copies",
        options,
        {
            "frame": {"width": options.width, "height": options.height, "bytes": nbytes},
            "cases": figures,
            "target_ms": TARGET_MS,
            "target_reached": best <= TARGET_MS,
        },
    )


if __name__ == "__main__":
    main()
