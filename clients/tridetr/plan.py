"""What runs where on this machine: the model, the frames, the decoding of each camera. Pure, and the only place.

A whole node is planned before its processes start. A container plans what it runs itself: what another one has
(libraries, a server) cannot be seen from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tridetr.config import Config
from tridetr.config.schema import GPU_PROVIDERS
from tridetr.errors import CudaError, ModelError
from tridetr.machine import Machine
from tridetr.model_card import Form

BACKENDS: Final = {"rfdetr_ort": "onnxruntime", "rfdetr_trt": "tensorrt"}
_INSTEAD = "or device: auto, which takes system shared memory then"


@dataclass(frozen=True, slots=True)
class Placement:
    """Which engine runs the model, and where.

    Attributes:
        backend: `onnxruntime` or `tensorrt`.
        native: whether the server's own library of that name runs it, and not our Python-based one.
        gpu: whether it goes to the first GPU.
        other_gpus: whether there are GPUs that it must not go to.
        provider: what our Python-based backend is to take (`tridetr.triton.engine.choice`).
        graph: which form of the graph suits; portable is the file as it is.
    """

    backend: str
    native: bool
    gpu: bool
    other_gpus: bool = False
    provider: str = "auto"
    graph: Form = Form.PORTABLE


@dataclass(frozen=True, slots=True)
class Frames:
    """Where frames go.

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


@dataclass(frozen=True, slots=True)
class Plan:
    """What runs where.

    Attributes:
        model: where the model runs; None: on a server that others start.
        frames: whether frames go to GPU memory.
        decoded_on_gpu: cameras that the gpu process decodes.
    """

    model: Placement | None
    frames: Frames
    decoded_on_gpu: tuple[str, ...]

    @property
    def needs_gpu_process(self) -> bool:
        """Whether there is work for the gpu process."""
        return self.frames.cuda or bool(self.decoded_on_gpu)


def plan(config: Config, machine: Machine) -> Plan:
    """Plan a node.

    Raises:
        CudaError: the configuration asks for GPU memory or decoding, and that cannot be had here.
        ModelError: the model cannot run here as the configuration asks.
    """
    frames = place_frames(config, machine)
    decoded = tuple(name for name, camera in config.cameras.items() if camera.decode == "gpu")
    if decoded and not (frames.cuda or frames.gpu):
        raise CudaError(
            f"camera {decoded[0]}: decode: gpu is impossible here: {frames.why_not}. Remedy: decode: cpu"
        )
    model = place_model(config, machine) if config.triton.url is None else None
    return Plan(model, frames, decoded)


def place_model(config: Config, machine: Machine) -> Placement:
    """Decide where the model runs, on what, and in which form.

    Args:
        config: the node's configuration.
        machine: what this machine has.

    Raises:
        ModelError: what is asked for cannot be had here.
    """
    backend, native = BACKENDS[config.model.name], machine.native
    provider, engine = config.model.provider, backend == "tensorrt"
    asked = "model.name: rfdetr_trt" if engine else f"model.provider: {provider}"
    wanted = engine or provider in GPU_PROVIDERS
    if config.device == "cuda" and not wanted:
        asked, wanted = "device: cuda", True
    gpus = machine.gpus
    if wanted and not gpus.count:
        raise ModelError(
            f"{asked} needs an NVIDIA GPU: {gpus.why_none}. Remedy: install the driver, give the container the GPU "
            "(docker run --gpus all; in the chart gpu.enabled), or use model.name: rfdetr_ort with device: auto"
        )
    if native and config.model.precision not in ("auto", "fp32"):
        raise ModelError(
            f"model.precision {config.model.precision}: NVIDIA's native backends run a model in the types of its file. "
            "Remedy: precision: auto, and a model of that precision (`tridetr models quantize`, `build-engine`)"
        )
    usable = gpus.count and (native or machine.cuda_wheel)
    gpu = wanted or bool(config.device != "cpu" and provider == "auto" and usable)
    other_gpus = bool(gpus.count) and not gpu
    return Placement(
        backend,
        native,
        gpu,
        other_gpus,
        provider=_told_provider(config, gpu, other_gpus),
        graph=_graph(provider, machine, on_cpu=not (native or gpu)),
    )


def _told_provider(config: Config, gpu: bool, other_gpus: bool) -> str:
    if config.model.provider != "auto":
        return config.model.provider
    if gpu:
        return "auto-cuda"
    return "auto-cpu" if config.device == "cpu" or other_gpus else "auto"


def _graph(provider: str, machine: Machine, *, on_cpu: bool) -> Form:
    openvino = provider == "openvino" or (provider == "auto" and machine.openvino_wheel)
    return Form.OPENVINO if on_cpu and openvino else Form.PORTABLE


def place_frames(config: Config, machine: Machine) -> Frames:
    """Decide whether frames go to GPU memory.

    Raises:
        CudaError: `device` is `cuda`, and that cannot be.
    """
    if config.device == "cpu":
        return Frames(False, "device: cpu")
    gpu = bool(machine.gpus.count and machine.bindings)
    if config.model.provider in ("cpu", "openvino"):
        return Frames(False, gpu=gpu)
    why_not, remedy, is_loss = _obstacle(machine)
    if not why_not:
        return Frames(True, gpu=gpu)
    if config.device == "cuda":
        raise CudaError(f"device: cuda is impossible here: {why_not}. Remedy: {remedy}, {_INSTEAD}")
    return Frames(False, f"{why_not}. Remedy: {remedy}" if is_loss else why_not, is_loss, gpu)


def _obstacle(machine: Machine) -> tuple[str, str, bool]:
    """Return what stands in the way of CUDA IPC, the remedy, and whether that is worth a warning."""
    if machine.jetson:
        return "a Jetson has no CUDA memory that processes could share", "a PC with a GPU", False
    if not machine.gpus.count:
        remedy = "install NVIDIA's driver, or give the container the GPU"
        return machine.gpus.why_none or "there is no NVIDIA GPU", remedy, False
    if not machine.bindings:
        return "cuda-bindings is not installed", "pip install 'tridetr[gpu]'", True
    if machine.server_in_pid_namespace is False:
        return (
            "the inference server runs in another PID namespace, so it cannot open our GPU memory",
            "one PID namespace for both (Kubernetes: shareProcessNamespace, Docker: --pid)",
            True,
        )
    return "", "", False
