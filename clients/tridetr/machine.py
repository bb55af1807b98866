"""What this machine has to run a model. Creates no CUDA context: that would cost memory on the GPU."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


@dataclass(frozen=True, slots=True)
class Gpus:
    """What CUDA's driver says.

    Attributes:
        count: how many GPUs this process may use.
        why_none: the reason, where there is none.
    """

    count: int
    why_none: str = ""


def find_gpus(library: str = "libcuda.so.1") -> Gpus:
    """Ask CUDA's driver.

    Args:
        library: the driver's library, which the NVIDIA runtime brings into containers.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return Gpus(0, f"NVIDIA's driver is not here ({library} is missing)")
    count = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code == _NO_DEVICE or (code == 0 and count.value == 0):
        return Gpus(0, "NVIDIA's driver shows no GPU to this process")
    if code:
        return Gpus(0, f"NVIDIA's driver does not start (CUDA error {code})")
    return Gpus(count.value)


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides where a model can run.

    Attributes:
        gpus: what CUDA's driver says.
        cuda_wheel: whether the ONNX Runtime that our Python-based backend imports can use a GPU.
        openvino_wheel: whether it has OpenVINO.
    """

    gpus: Gpus
    cuda_wheel: bool = False
    openvino_wheel: bool = False


def find_machine() -> Machine:
    """Look at this machine."""
    return Machine(
        find_gpus(), _is_installed("onnxruntime-gpu"), _is_installed("onnxruntime-openvino")
    )


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True
