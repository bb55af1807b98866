"""Whether frames go to GPU memory: by the configuration and by what this machine is. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tridetr.errors import CudaError

_CPU_PROVIDERS = ("cpu", "openvino")
_INSTEAD = "or device: auto, which takes system shared memory then"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known of this process's surroundings.

    Attributes:
        gpus: How many GPUs the driver shows.
        why_no_gpu: The reason, where there is none.
        bindings: Whether cuda-bindings is installed.
        jetson: Whether this is a Jetson.
        server_in_pid_namespace: Whether the inference server shares our PID namespace; None: not known.
    """

    gpus: int
    why_no_gpu: str = ""
    bindings: bool = True
    jetson: bool = False
    server_in_pid_namespace: bool | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The decision.

    Attributes:
        cuda: Whether frames go to GPU memory.
        why_not: What keeps them from it, and the remedy; empty where the configuration wants it so.
        is_loss: Whether there is a GPU that frames could go to if the remedy was applied.
        gpu: Whether this machine has a GPU that processes of ours can use, wherever the model runs.
    """

    cuda: bool
    why_not: str = ""
    is_loss: bool = False
    gpu: bool = False


def choose(device: Literal["auto", "cpu", "cuda"], provider: str, found: Surroundings) -> Choice:
    """Decide where frames go.

    Args:
        device: `device` of the configuration.
        provider: `model.provider` of the configuration.
        found: The surroundings.

    Raises:
        CudaError: ``device`` is `cuda`, and that cannot be.

    Example:
        >>> choose("auto", "auto", Surroundings(gpus=1)).cuda
        True
        >>> choose("auto", "openvino", Surroundings(gpus=1)).cuda
        False
    """
    if device == "cpu":
        return Choice(False)
    gpu = bool(found.gpus and found.bindings)
    if provider in _CPU_PROVIDERS:
        if device == "cuda":
            raise CudaError(
                f"device: cuda contradicts model.provider: {provider}, which runs on the CPU. Remedy: "
                "model.provider: auto, or device: auto"
            )
        return Choice(False, gpu=gpu)
    why_not, remedy, is_loss = _obstacle(found)
    if not why_not:
        return Choice(True, gpu=gpu)
    if device == "cuda":
        raise CudaError(f"device: cuda is impossible here: {why_not}. Remedy: {remedy}, {_INSTEAD}")
    return Choice(False, f"{why_not}. Remedy: {remedy}" if is_loss else why_not, is_loss, gpu)


def _obstacle(found: Surroundings) -> tuple[str, str, bool]:
    """Return what stands in the way of CUDA IPC, the remedy, and whether that is worth a warning."""
    if found.jetson:
        return "a Jetson has no CUDA memory that processes could share", "a PC with a GPU", False
    if not found.gpus:
        remedy = "install NVIDIA's driver, or give the container the GPU"
        return found.why_no_gpu or "there is no NVIDIA GPU", remedy, False
    if not found.bindings:
        return "cuda-bindings is not installed", "pip install 'tridetr[gpu]'", True
    if found.server_in_pid_namespace is False:
        return (
            "the inference server runs in another PID namespace, so it cannot open our GPU memory",
            "one PID namespace for both (Kubernetes: shareProcessNamespace, Docker: --pid)",
            True,
        )
    return "", "", False
