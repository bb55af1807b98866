"""Detect the GPUs, libraries and namespaces that this process can use.

Only facts, no decisions (those are made in `tridetr.plan`). Creates no CUDA context.
"""

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
    """The GPUs that the CUDA driver reports.

    Attributes:
        count: number of GPUs that this process can use.
        why_none: why there is none; empty if there is one.
    """

    count: int
    why_none: str = ""


def find_gpus(library: str = "libcuda.so.1") -> Gpus:
    """Return the GPUs that the CUDA driver reports.

    Args:
        library: the driver's library; in containers, the NVIDIA runtime provides it.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return Gpus(0, f"the NVIDIA driver is not installed ({library} is missing)")
    count = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code == _NO_DEVICE or (code == 0 and count.value == 0):
        return Gpus(0, "the NVIDIA driver shows no GPU to this process")
    if code:
        return Gpus(0, f"the NVIDIA driver cannot be initialised (CUDA error {code})")
    return Gpus(count.value)


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine as this process sees it.

    Attributes:
        gpus: the GPUs that the CUDA driver reports.
        cuda_wheel: whether the installed ONNX Runtime supports CUDA (onnxruntime-gpu).
        openvino_wheel: whether the installed ONNX Runtime supports OpenVINO (onnxruntime-openvino).
        native: whether the inference server has a native library for the model's backend.
        bindings: whether cuda-bindings is installed.
        jetson: whether this is a Jetson.
        server_in_pid_namespace: whether the inference server shares our PID namespace; None: unknown.
    """

    gpus: Gpus
    cuda_wheel: bool = False
    openvino_wheel: bool = False
    native: bool = False
    bindings: bool = True
    jetson: bool = False
    server_in_pid_namespace: bool | None = None


def find_machine(config: Config) -> Machine:
    """Inspect this machine.

    While the inference server is starting, ``server_in_pid_namespace`` is None. ``native`` is left False: only the
    server's setup knows it.
    """
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
    """Return whether this machine is an NVIDIA Jetson.

    Args:
        root: Folder that contains proc and etc; a temporary folder in tests.
    """
    if (root / "etc/nv_tegra_release").exists():
        return True
    try:
        return b"nvidia,tegra" in (root / "proc/device-tree/compatible").read_bytes()
    except OSError:
        return False


def same_pid_namespace(pid: int, root: Path = Path("/")) -> bool | None:
    """Return whether a process is in our PID namespace; None if the process is not visible.

    Args:
        pid: The process ID.
        root: Folder that contains proc; a temporary folder in tests.
    """
    try:
        theirs = (root / "proc" / str(pid) / "ns/pid").readlink()
        return theirs == (root / "proc/self/ns/pid").readlink()
    except OSError:
        return None
