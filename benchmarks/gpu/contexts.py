"""GPU memory of each process: its CUDA context, and a camera's frame ring.

    python benchmarks/gpu/contexts.py [--processes 4] [--json FILE]

Processes are started one after the other; each opens the GPU like the gpu process, then allocates device memory for the
slots of a 1080p camera. The used memory of the GPU is read with NVML, which needs no context.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from importlib import import_module
from statistics import median
from typing import Any

import numpy as np
from rig import FULL_HD, BenchGpu, DeviceCamera, need_gpu, report

from common import argument_parser
from serving import CAMERA
from tridetr.shm.names import unlink_instance


def child() -> None:
    """Advance one step with each line of standard input: context, ring, end."""
    gpu = BenchGpu.open()
    sys.stdout.write("context\n")
    sys.stdout.flush()
    sys.stdin.readline()
    instance = f"bench{uuid.uuid4().hex[:8]}"
    try:
        with DeviceCamera(gpu, instance, FULL_HD) as camera:
            camera.publish(1, np.zeros((FULL_HD[1] * 3 // 2, FULL_HD[0]), np.uint8))
            sys.stdout.write("ring\n")
            sys.stdout.flush()
            sys.stdin.readline()
    finally:
        unlink_instance(instance, [CAMERA])
        gpu.close()


def used_mib(nvml: Any, handle: Any) -> float:
    """Return the used memory of the GPU."""
    return int(nvml.nvmlDeviceGetMemoryInfo(handle).used) / (1 << 20)


def main() -> None:
    made = argument_parser(__doc__)
    made.add_argument("--processes", type=int, default=4)
    made.add_argument("--child", action="store_true", help="internal: one of the processes")
    options = made.parse_args()
    need_gpu()
    if options.child:
        child()
        return
    nvml = import_module("pynvml")
    nvml.nvmlInit()
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    contexts: list[float] = []
    rings: list[float] = []
    children = []
    before = used_mib(nvml, handle)
    first = before
    try:
        for _ in range(options.processes):
            process = subprocess.Popen(
                [sys.executable, __file__, "--child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            children.append(process)
            assert process.stdin is not None
            assert process.stdout is not None
            for costs in (contexts, rings):
                if not process.stdout.readline():
                    raise SystemExit("a process could not open the GPU (see above)")
                now = used_mib(nvml, handle)
                costs.append(round(now - before, 1))
                before = now
                if costs is contexts:
                    process.stdin.write("\n")
                    process.stdin.flush()
    finally:
        for process in children:
            process.communicate("\n" * 2)
    report(
        "contexts",
        options,
        {
            "used_before_mib": round(first, 1),
            "context_mib": {"each": contexts, "median": median(contexts)},
            "ring_1080p_mib": {"each": rings, "median": median(rings)},
        },
    )


if __name__ == "__main__":
    main()
