"""What this process can see of GPU, libraries and namespaces. Gathers, judges nothing, creates no CUDA context."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tridetr.config import Config
from tridetr.cuda.choice import Surroundings
from tridetr.machine import find_gpus
from tridetr.triton.endpoint import endpoint_of


def look_around(config: Config) -> Surroundings:
    """Return what is known now; the inference server may still be starting."""
    gpus = find_gpus()
    endpoint = endpoint_of(config)
    pid = endpoint.pid if endpoint is not None else None
    return Surroundings(
        gpus.count,
        gpus.why_none,
        has_bindings(),
        is_jetson(),
        same_pid_namespace(pid) if pid is not None else None,
    )


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
