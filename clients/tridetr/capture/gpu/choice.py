"""Where a camera is decoded: what the configuration wants, what is there, and the reason where they differ."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tridetr.capture.gpu.api import GpuDecoders, GpuUnavailableError
from tridetr.config import Config

_log = logging.getLogger("tridetr.capture")


def wants_gpu(config: Config, camera: str) -> bool:
    """Return whether this camera shall be decoded on the GPU if that works. Pure."""
    section = config.cameras[camera]
    return section.decode != "cpu" and config.device != "cpu" and section.source.kind != "synthetic"


def open_decoders(
    config: Config, camera: str, open_gpu: Callable[[], GpuDecoders] | None = None
) -> GpuDecoders | None:
    """Return the GPU's decoders, or None where the CPU decodes; a wish that fails is answered with the reason.

    Args:
        config: the node's configuration.
        camera: which camera.
        open_gpu: opens the GPU; None: CUDA.
    """
    if not wants_gpu(config, camera):
        if config.cameras[camera].decode == "gpu":
            _log.warning("decode: gpu has no effect with device: cpu or a synthetic camera")
        return None
    if open_gpu is None:
        from tridetr.capture.gpu.cuda_gpu import CudaDecoders

        open_gpu = CudaDecoders
    try:
        return open_gpu()
    except GpuUnavailableError as error:
        level = logging.WARNING if config.cameras[camera].decode == "gpu" else logging.INFO
        _log.log(level, "no decoding on the GPU: %s; the CPU decodes", error)
        return None
