"""Shared by the GPU benchmarks: opening the GPU, timing on it, a node that serves, the report."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import mmap
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import machine, write_json
from serving import CAMERA
from serving import serving as serving_node
from tridetr.config import Config
from tridetr.cuda.driver import DriverCuda
from tridetr.doctor import gpu_facts
from tridetr.errors import CudaError
from tridetr.gpu.cameras import Uploader
from tridetr.machine import find_gpus
from tridetr.shm.closing import Closing
from tridetr.shm.frames import ColorMatrix, ColorRange, FrameStamp, FrameWriter

NO_GPU = 3  # exit status: nothing was measured because there is no usable GPU
FULL_HD = (1920, 1080)


def need_gpu() -> None:
    """Exit with NO_GPU and the reason if this process sees no GPU; does not create a CUDA context."""
    found = find_gpus()
    if not found.count:
        sys.stderr.write(
            f"no GPU, so nothing is measured: {found.why_none}. `tridetr doctor` shows what is missing.\n"
        )
        raise SystemExit(NO_GPU)


class BenchGpu(DriverCuda):
    """A GPU with timing functions."""

    @classmethod
    def open(cls) -> BenchGpu:
        """Open the GPU, or exit with the reason."""
        need_gpu()
        try:
            return cls()
        except CudaError as error:
            sys.stderr.write(f"the GPU cannot be used, so nothing is measured: {error}\n")
            raise SystemExit(NO_GPU) from None

    def clock(self) -> int:
        """Return an event that records its time."""
        return int(self._call("cuEventCreate", 0))

    def wait(self, stream: int) -> None:
        """Wait for all work of a stream."""
        self._call("cuStreamSynchronize", stream)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Return the milliseconds between two events that have completed."""
        return float(self._call("cuEventElapsedTime", start, end))

    def open_handle(self, handle: bytes) -> int:
        """Open another process's allocation and return its address here."""
        wanted = self._cu.CUipcMemHandle()
        ctypes.memmove(int(wanted.getPtr()), handle, len(handle))
        lazily = int(self._cu.CUipcMem_flags.CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)
        return int(self._call("cuIpcOpenMemHandle", wanted, lazily))

    def close_handle(self, pointer: int) -> None:
        """Close it."""
        self._call("cuIpcCloseMemHandle", pointer)

    def free_mib(self) -> float:
        """Return the free memory of the GPU."""
        free, _ = self._pair("cuMemGetInfo")
        return free / (1 << 20)

    def _pair(self, name: str) -> tuple[int, int]:
        status, first, second = getattr(self._cu, name)()
        self._check(name, status)
        return int(first), int(second)


def pages(nbytes: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Return page-aligned host memory, which pinning requires."""
    array = np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)
    array[:] = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    return array


@contextlib.contextmanager
def serving(model: Path | None) -> Iterator[Config]:
    """Run `tridetr triton` with the model on the GPU."""
    with serving_node(model, device="cuda", provider="cuda") as (config, _):
        yield config


class DeviceCamera(Closing):
    """A frame ring, and the gpu process's work for it; a context manager."""

    def __init__(self, gpu: DriverCuda, instance: str, size: tuple[int, int]) -> None:
        width, height = size
        self._writer = FrameWriter(instance, CAMERA, width=width, height=height, consumers=())
        self._uploader = Uploader(gpu, instance, CAMERA)

    def write(self, number: int, planes: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Publish a frame in host memory; skip it if there is no free slot."""
        slot = self._writer.begin()
        if slot is not None:
            slot.planes[:] = planes
            now = time.monotonic_ns()
            stamp = FrameStamp(number, now, now, ColorRange.LIMITED, ColorMatrix.BT601)
            self._writer.publish(slot, stamp)

    def upload(self) -> None:
        """Publish it on the GPU, too."""
        self._uploader.step(0)

    def publish(self, number: int, planes: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Publish a frame in host memory and on the GPU."""
        self.write(number, planes)
        self.upload()

    def close(self) -> None:
        """Close both rings."""
        self._uploader.close()
        self._writer.close()


def report(name: str, options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Print the figures as JSON, and write them to the file of ``--json``, if given."""
    result = {
        "benchmark": name,
        "machine": machine(),
        "gpu": asdict(gpu_facts.gather()),
        "figures": figures,
    }
    write_json(options, result)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
