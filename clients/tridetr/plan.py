"""Decide what runs where on this machine: the model, the frames, and the decoding of each camera.

Pure functions, and the only place where this is decided. A whole node is planned before its processes start. A
container plans only the processes that it runs: it cannot see the libraries and servers of other containers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tridetr.config import Config
from tridetr.config.schema import GPU_PROVIDERS
from tridetr.errors import CudaError, ModelError
from tridetr.machine import Machine
from tridetr.model_card import Form, ModelCard, Target

BACKENDS: Final = {"rfdetr_ort": "onnxruntime", "rfdetr_trt": "tensorrt"}
_INSTEAD = "or set device: auto, which then uses system shared memory"


@dataclass(frozen=True, slots=True)
class Placement:
    """The engine that runs the model, and its device.

    Attributes:
        backend: `onnxruntime` or `tensorrt`.
        native: whether the server's native backend of that name runs the model, instead of our Python-based one.
        gpu: whether the model runs on the first GPU.
        other_gpus: whether there are GPUs that the model must not use.
        provider: provider for our Python-based backend (`tridetr.triton.engine.choice`).
        graph: form of the graph to serve; portable means the model file as it is.
    """

    backend: str
    native: bool
    gpu: bool
    other_gpus: bool = False
    provider: str = "auto"
    graph: Form = Form.PORTABLE

    @property
    def on_openvino(self) -> bool:
        """Whether OpenVINO runs the model."""
        return not self.gpu and (self.graph is Form.OPENVINO or self.provider == "openvino")

    @property
    def on_tensorrt(self) -> bool:
        """Whether TensorRT, or TensorRT for RTX, runs the model."""
        return self.backend == "tensorrt" or self.provider.startswith("tensorrt")


@dataclass(frozen=True, slots=True)
class Frames:
    """The memory that frames are stored in.

    Attributes:
        cuda: Whether frames are stored in GPU memory.
        why_not: Why they are not, with the remedy; empty if the configured provider needs them in host memory.
        is_loss: Whether frames could be stored in GPU memory if the remedy were applied.
        gpu: Whether our processes can use a GPU of this machine, regardless of where the model runs.
    """

    cuda: bool
    why_not: str = ""
    is_loss: bool = False
    gpu: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The placement of a whole node.

    Attributes:
        model: where the model runs; None: on an external server.
        frames: the memory that frames are stored in.
        decoded_on_gpu: cameras that the gpu process decodes.
    """

    model: Placement | None
    frames: Frames
    decoded_on_gpu: tuple[str, ...]

    @property
    def needs_gpu_process(self) -> bool:
        """Whether the node needs the gpu process."""
        return self.frames.cuda or bool(self.decoded_on_gpu)


def plan(config: Config, machine: Machine) -> Plan:
    """Return the placement of a node on this machine.

    Raises:
        CudaError: the configuration requires GPU memory or GPU decoding, which this machine does not support.
        ModelError: the model cannot run here as configured.
    """
    frames = place_frames(config, machine)
    decoded = tuple(name for name, camera in config.cameras.items() if camera.decode == "gpu")
    if decoded and not (frames.cuda or frames.gpu):
        raise CudaError(
            f"camera {decoded[0]}: decode: gpu is impossible here: {frames.why_not}. Remedy: set decode: cpu"
        )
    model = place_model(config, machine) if config.triton.url is None else None
    return Plan(model, frames, decoded)


def place_model(config: Config, machine: Machine) -> Placement:
    """Decide on the backend, device, provider and graph form of the model.

    Args:
        config: the node's configuration.
        machine: what is installed on this machine; `native` must be set.

    Raises:
        ModelError: the configuration requires something that this machine does not have.
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
            "(Docker: --gpus all; Helm chart: gpu.enabled), or use model.name: rfdetr_ort with device: auto"
        )
    if native and config.model.precision not in ("auto", "fp32"):
        raise ModelError(
            f"model.precision {config.model.precision}: native backends run a model in the data types of its file. "
            "Remedy: set precision: auto and use a model of that precision (`tridetr models quantize`, `build-engine`)"
        )
    usable = gpus.count and (native or machine.cuda_wheel)
    gpu = wanted or bool(config.device != "cpu" and provider == "auto" and usable)
    other_gpus = bool(gpus.count) and not gpu
    return Placement(
        backend,
        native,
        gpu,
        other_gpus,
        provider=_backend_provider(config, gpu, other_gpus),
        graph=_graph(provider, machine, on_cpu=not (native or gpu)),
    )


def check_target(card: ModelCard, placement: Placement) -> None:
    """Check that a quantised model is not run by an engine that cannot compute it.

    Args:
        card: the model's description.
        placement: where the model runs.

    Raises:
        ModelError: the model was quantised for other engines. ONNX Runtime's own providers, `cpu` and `cuda`, run both
            kinds.
    """
    if card.quantized_for is Target.TENSORRT and placement.on_openvino:
        raise ModelError(
            "the model was quantised for TensorRT, but OpenVINO would run it, which computes wrong detections from "
            "such a file. Remedy: quantise the original again with `tridetr models quantize … --target cpu`, or set "
            "model.provider: cpu (slower)"
        )
    if card.quantized_for is Target.CPU and placement.on_tensorrt:
        raise ModelError(
            "the model was quantised for CPUs, but TensorRT would run it, which supports only signed activations "
            "without a zero point. Remedy: quantise the original again with `tridetr models quantize … --target "
            "tensorrt`"
        )


def _backend_provider(config: Config, gpu: bool, other_gpus: bool) -> str:
    if config.model.provider != "auto":
        return config.model.provider
    if gpu:
        return "auto-cuda"
    return "auto-cpu" if config.device == "cpu" or other_gpus else "auto"


def _graph(provider: str, machine: Machine, *, on_cpu: bool) -> Form:
    openvino = provider == "openvino" or (provider == "auto" and machine.openvino_wheel)
    return Form.OPENVINO if on_cpu and openvino else Form.PORTABLE


def place_frames(config: Config, machine: Machine) -> Frames:
    """Decide whether frames are stored in GPU memory.

    Raises:
        CudaError: `device` is `cuda`, but frames cannot be stored in GPU memory here.
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
    """Return what prevents CUDA IPC (empty: nothing), the remedy, and whether it is worth a warning."""
    if machine.jetson:
        return "a Jetson cannot share CUDA memory between processes", "use a PC with a GPU", False
    if not machine.gpus.count:
        remedy = "install the NVIDIA driver, or give the container the GPU"
        return machine.gpus.why_none or "there is no NVIDIA GPU", remedy, False
    if not machine.bindings:
        return "cuda-bindings is not installed", "pip install 'tridetr[gpu]'", True
    if machine.server_in_pid_namespace is False:
        return (
            "the inference server runs in another PID namespace, so it cannot open our GPU memory",
            "use one PID namespace for both (Kubernetes: shareProcessNamespace, Docker: --pid)",
            True,
        )
    return "", "", False
