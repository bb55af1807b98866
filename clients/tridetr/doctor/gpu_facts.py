"""Gather facts about the GPU: driver, devices, libraries, namespaces. `doctor.gpu` judges them."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tridetr.doctor import try_cuda
from tridetr.machine import is_jetson
from tridetr.paths import model_repository_dir
from tridetr.python_module import module_command

_MIB = 1 << 20
SERVER_PROCESS = "tritonserver"
# Soname without its version: the versions that are tried, newest first
LIBRARIES: dict[str, tuple[str, ...]] = {
    "libcuda.so": ("1",),
    "libnvcuvid.so": ("1",),
    "libnvjpeg.so": ("13", "12"),
    "libnvinfer.so": ("11", "10", "8"),
}
PACKAGES = ("cuda-bindings", "PyNvVideoCodec", "nvidia-nvjpeg-cu12", "nvidia-nvjpeg", "tensorrt")
_NAMESPACES = ("ipc", "pid")


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML reports it; memory in MiB."""

    name: str
    memory_mib: int
    free_mib: int
    capability: tuple[int, int]
    mig: bool = False
    exclusive: bool = False


@dataclass(frozen=True)
class ServerProcess:
    """A Triton server process that is visible in this PID namespace.

    Attributes:
        pid: Its process id in this namespace.
        namespaces: Ids of its "ipc" and "pid" namespaces; without those that this user cannot read.
    """

    pid: int
    namespaces: dict[str, str]


@dataclass(frozen=True)
class GpuFacts:
    """Facts about the GPU, driver and libraries of this machine.

    Attributes:
        driver: Version of the kernel driver; None if none is loaded.
        cuda: Newest CUDA version that the driver supports, such as (12, 8).
        gpus: The GPUs; empty if NVML does not work.
        nvml_error: Why NVML does not work; empty if it does.
        jetson: Whether this is a Jetson (which has no CUDA IPC).
        container: Whether this process runs in a container.
        runtime: Whether the NVIDIA container runtime is installed (only visible on the host).
        capabilities: NVIDIA_DRIVER_CAPABILITIES of a container; None if it is not set.
        libraries: Name to file for each of LIBRARIES that can be loaded.
        packages: Name to version for each of PACKAGES that is installed.
        namespaces: Ids of this process's "ipc" and "pid" namespaces.
        servers: Triton server processes that are visible here.
        cuda_provider: Why ONNX Runtime's CUDA provider does not load; empty if it does, None if it is not
            installed.
    """

    driver: str | None = None
    cuda: tuple[int, int] | None = None
    gpus: tuple[Gpu, ...] = ()
    nvml_error: str = ""
    jetson: bool = False
    container: bool = False
    runtime: bool = False
    capabilities: str | None = None
    libraries: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    namespaces: dict[str, str] = field(default_factory=dict)
    servers: tuple[ServerProcess, ...] = ()
    cuda_provider: str | None = None


def gather(root: Path = Path("/"), nvml: Any = None) -> GpuFacts:
    """Gather the facts of this machine.

    Args:
        root: Folder that contains /proc, /etc and /dev; another one in tests.
        nvml: The module `pynvml` or a stand-in; None imports it.
    """
    driver, cuda, gpus, nvml_error = _ask_nvml(nvml)
    return GpuFacts(
        driver=driver or _kernel_driver(root),
        cuda=cuda,
        gpus=gpus,
        nvml_error=nvml_error,
        jetson=is_jetson(root),
        container=any((root / name).exists() for name in (".dockerenv", "run/.containerenv"))
        or "KUBERNETES_SERVICE_HOST" in os.environ,
        runtime=any(
            (root / folder / "nvidia-container-runtime").exists()
            for folder in ("usr/bin", "usr/local/bin", "usr/local/nvidia/toolkit")
        ),
        capabilities=os.environ.get("NVIDIA_DRIVER_CAPABILITIES"),
        libraries=find_libraries(),
        packages=_packages(),
        namespaces=_namespaces(root / "proc" / "self"),
        servers=tuple(_servers(root / "proc")),
        cuda_provider=_try_provider() if gpus else None,
    )


def _try_provider() -> str | None:
    """Load the bundled model with the CUDA provider in a separate process; return ``GpuFacts.cuda_provider``."""
    model = model_repository_dir() / "rfdetr_ort" / "1" / "model.onnx"
    line = module_command(try_cuda.__name__, str(model))
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "not loaded within 60 s"
    if done.returncode == try_cuda.MISSING:
        return None
    lines = [text for text in (done.stdout + done.stderr).splitlines() if text.strip()]
    return (lines[-1][:300] if lines else "no reason given") if done.returncode else ""


def _ask_nvml(nvml: Any) -> tuple[str | None, tuple[int, int] | None, tuple[Gpu, ...], str]:
    if nvml is None:
        if importlib.util.find_spec("pynvml") is None:
            return None, None, (), "nvidia-ml-py is not installed"
        nvml = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return None, None, (), str(error)
    try:
        code = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        gpus = tuple(_gpu(nvml, handle) for handle in handles)
        driver = str(nvml.nvmlSystemGetDriverVersion())
        return driver, (code // 1000, code % 1000 // 10), gpus, ""
    except nvml.NVMLError as error:
        return None, None, (), str(error)
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, handle: Any) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    try:
        mig = bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError:  # most GPUs do not support MIG
        mig = False
    exclusive = nvml.nvmlDeviceGetComputeMode(handle) == nvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS
    return Gpu(
        str(nvml.nvmlDeviceGetName(handle)),
        int(memory.total) // _MIB,
        int(memory.free) // _MIB,
        (int(major), int(minor)),
        mig,
        exclusive,
    )


def _kernel_driver(root: Path) -> str | None:
    try:
        words = (root / "proc/driver/nvidia/version").read_text().split()
    except OSError:
        return None
    numbers = (word for word in words if word[:1].isdigit() and "." in word)
    return next(numbers, "unknown")


def find_libraries(load: Callable[[str], object] = ctypes.CDLL) -> dict[str, str]:
    """Return name to file for those of LIBRARIES that the dynamic loader finds (not those in Python wheels)."""
    found = {}
    for name, versions in LIBRARIES.items():
        for number in versions:
            try:
                load(f"{name}.{number}")
            except OSError:
                continue
            found[name] = f"{name}.{number}"
            break
    return found


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _namespaces(process: Path) -> dict[str, str]:
    found = {}
    for kind in _NAMESPACES:
        try:
            found[kind] = str((process / "ns" / kind).readlink())
        except OSError:  # another user's process
            continue
    return found


def _servers(proc: Path) -> Iterable[ServerProcess]:
    for folder in sorted(proc.glob("[0-9]*")):
        try:
            name = (folder / "comm").read_text().strip()
        except OSError:
            continue
        if name == SERVER_PROCESS:
            yield ServerProcess(int(folder.name), _namespaces(folder))
