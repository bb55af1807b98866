"""What this process can see of GPU, libraries and namespaces. Judges nothing, and creates no CUDA context."""

from __future__ import annotations

import ctypes
import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from tridetr.config import Config
from tridetr.triton.endpoint import endpoint_of

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
    """What is known of the machine as this process sees it.

    Attributes:
        gpus: what CUDA's driver says.
        cuda_wheel: whether the ONNX Runtime that our Python-based backend imports can use a GPU.
        openvino_wheel: whether it has OpenVINO.
        native: whether the inference server has the model's backend as a library of its own.
        bindings: whether cuda-bindings is installed.
        jetson: whether this is a Jetson.
        server_in_pid_namespace: whether the inference server shares our PID namespace; None: not known.
    """

    gpus: Gpus
    cuda_wheel: bool = False
    openvino_wheel: bool = False
    native: bool = False
    bindings: bool = True
    jetson: bool = False
    server_in_pid_namespace: bool | None = None


def find_machine(config: Config) -> Machine:
    """Look at this machine; the inference server may still be starting."""
    endpoint = endpoint_of(config)
    pid = endpoint.pid if endpoint is not None else None
    return Machine(
        find_gpus(),
        cuda_wheel=_is_installed("onnxruntime-gpu"),
        openvino_wheel=_is_installed("onnxruntime-openvino"),
        bindings=has_bindings(),
        jetson=is_jetson(),
        server_in_pid_namespace=same_pid_namespace(pid) if pid is not None else None,
    )


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def has_bindings() -> bool:
    """Return whether cuda-bindings is installed."""
    try:
        return importlib.util.find_spec("cuda.bindings.driver") is not None
    except ModuleNotFoundError:  # not even the package `cuda`
        return False


def is_jetson(root: Path = Path("/")) -> bool:
    """Return whether this is a Jetson.

    Args:
        root: Where /proc and /etc lie; another folder in tests.
    """
    if (root / "etc/nv_tegra_release").exists():
        return True
    try:
        return b"nvidia,tegra" in (root / "proc/device-tree/compatible").read_bytes()
    except OSError:
        return False


def same_pid_namespace(pid: int, root: Path = Path("/")) -> bool | None:
    """Return whether a process is in our PID namespace; None: it cannot be seen.

    Args:
        pid: The process.
        root: Where /proc lies; another folder in tests.
    """
    try:
        theirs = (root / "proc" / str(pid) / "ns/pid").readlink()
        return theirs == (root / "proc/self/ns/pid").readlink()
    except OSError:
        return None
