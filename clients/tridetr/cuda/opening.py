"""Opens the GPU for a process that captures, or says once why frames stay in host memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tridetr.config import Config
from tridetr.cuda.choice import choose
from tridetr.cuda.driver import DriverCuda
from tridetr.cuda.memory import DeviceMemory
from tridetr.cuda.surroundings import look_around
from tridetr.errors import CudaError
from tridetr.shm.boards import DemandReader

_log = logging.getLogger("tridetr.cuda")


def open_cuda(config: Config) -> DriverCuda | None:
    """Return the GPU that frames go to; None where they stay in host memory.

    Raises:
        CudaError: ``device`` is `cuda`, and that is impossible here.
    """
    if config.device == "cpu":
        return None
    choice = choose(config.device, config.model.provider, look_around(config))
    if not choice.cuda:
        if choice.why_not:
            level = logging.WARNING if choice.is_loss else logging.INFO
            _log.log(level, "frames go through system shared memory: %s", choice.why_not)
        return None
    try:
        gpu = DriverCuda()
    except CudaError as error:
        if config.device == "cuda":
            raise
        _log.warning("frames go through system shared memory: %s", error)
        return None
    _log.info("frames go to %s (GPU-%s)", gpu.name, gpu.uuid.hex())
    return gpu


@contextmanager
def device_memory(config: Config, camera: str) -> Iterator[DeviceMemory | None]:
    """Yield where the device memory of a camera's frames comes from; None where they stay in host memory.

    Raises:
        CudaError: ``device`` is `cuda`, and that is impossible here.
    """
    gpu = open_cuda(config)
    if gpu is None:
        yield None
        return
    try:
        with DemandReader(config.instance, camera) as demand:
            yield DeviceMemory(gpu, demand.wanted, forced=config.device == "cuda")
    finally:
        gpu.close()
