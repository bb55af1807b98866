"""Adapt a model's Triton configuration to its placement (`tridetr.plan`). Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2

from tridetr.config import Config
from tridetr.contract import INPUT
from tridetr.models.engine_files import EngineFacts, Profile
from tridetr.plan import Placement
from tridetr.triton.engine.choice import CPU, CUDA, OPENVINO, TENSORRT

Kind = model_config_pb2.ModelInstanceGroup
# Frames of one size that arrive within this time share a batch. It is less than the transport of a frame takes.
BATCH_DELAY_US = 500
_GRAPH_BATCHES = (1, 2, 3, 4, 6, 8)
_NATIVE_OPENVINO = "openvino"


def place(
    rendered: Any,
    placement: Placement,
    config: Config,
    *,
    facts: EngineFacts | None = None,
    cache: Path | None = None,
) -> None:
    """Adapt a model configuration to the model's placement.

    Args:
        rendered: Triton's `ModelConfig`, changed in place.
        placement: where the model runs.
        config: the node's configuration.
        facts: the build parameters of the TensorRT engine; None for other backends.
        cache: folder in which ONNX Runtime can cache the engines that it builds.
    """
    (group,) = rendered.instance_group
    if placement.gpu:
        # The GPU that holds the frames: an instance on another GPU would need copies.
        group.kind, group.gpus[:] = Kind.KIND_GPU, [0]
    elif placement.other_gpus:
        group.kind = Kind.KIND_CPU
    if facts is not None and rendered.max_batch_size:
        rendered.max_batch_size = min(rendered.max_batch_size, facts.profile.largest[0])
    if placement.native and placement.backend == "onnxruntime":
        _native_onnxruntime(rendered, placement, config, cache)
    if not placement.gpu:
        return
    if not placement.native:
        # Pass frames in GPU memory to our backend directly, without a copy to the host.
        rendered.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value = "no"
        # Our engine prepares for these when it is loaded.
        rendered.parameters["cameras"].string_value = str(len(config.cameras))
        rendered.parameters["frame_sizes"].string_value = ",".join(
            f"{height * 3 // 2}x{width}" for width, height in config.frame_sizes
        )
    if rendered.max_batch_size > 1:
        company = not _all_sizes_known(config) or max(config.frame_sizes.values()) > 1
        rendered.dynamic_batching.max_queue_delay_microseconds = BATCH_DELAY_US if company else 0
    if placement.backend == "tensorrt" and placement.native and facts is not None:
        _cuda_graphs(rendered, config.frame_sizes, facts.profile)


def provider_name(placement: Placement, config: Config) -> str:
    """Return the provider of a native backend, in ONNX Runtime's naming."""
    if placement.backend == "tensorrt":
        return "TensorRT"
    if placement.gpu:
        return TENSORRT if config.model.provider == "tensorrt" else CUDA
    return OPENVINO if config.model.provider == _NATIVE_OPENVINO else CPU


def _all_sizes_known(config: Config) -> bool:
    return config.frame_sizes.total() == len(config.cameras)


def _native_onnxruntime(
    rendered: Any, placement: Placement, config: Config, cache: Path | None
) -> None:
    accelerators = rendered.optimization.execution_accelerators
    if not placement.gpu:
        if config.model.provider == _NATIVE_OPENVINO:
            accelerators.cpu_execution_accelerator.add(name=_NATIVE_OPENVINO)
        return
    # CUDA is not an accelerator here: an instance on a GPU uses it by default. The exhaustive search for convolution
    # algorithms, the backend's default, would run again for each new batch size.
    rendered.parameters["cudnn_conv_algo_search"].string_value = "1"  # heuristic
    if config.model.provider == "tensorrt":
        # FP32 keeps the data types of the file; FP16 would select weak typing, which ruins RF-DETR's accuracy.
        settings = {"precision_mode": "FP32"}
        if cache is not None:
            settings |= {"trt_engine_cache_enable": "true", "trt_engine_cache_path": str(cache)}
        settings |= profile_settings(config, max(rendered.max_batch_size, 1))
        accelerator = accelerators.gpu_execution_accelerator.add(name="tensorrt")
        for key, value in settings.items():
            accelerator.parameters[key] = value


def profile_settings(config: Config, max_batch: int) -> dict[str, str]:
    """Return ONNX Runtime's settings for one optimisation profile that covers all cameras' sizes.

    Without them, ONNX Runtime rebuilds the engine, which takes minutes, whenever a size is outside the range seen so
    far. Empty if the size of a camera is unknown.
    """
    if not _all_sizes_known(config):
        return {}
    profile = Profile.of(list(config.frame_sizes), max_batch)
    shapes = {"min": profile.least, "opt": profile.usual, "max": profile.largest}
    return {
        f"trt_profile_{name}_shapes": f"{INPUT}:{'x'.join(map(str, shape))}"
        for name, shape in shapes.items()
    }


def _cuda_graphs(rendered: Any, sizes: Mapping[tuple[int, int], int], profile: Profile) -> None:
    """Request CUDA graphs for the configured frame sizes.

    A graph replaces the launches of all kernels by one, but is recorded for one exact shape. So there are graphs only
    for sizes in the configuration; other shapes run without. If a graph cannot be recorded, the server logs a warning.
    """
    limit = rendered.max_batch_size
    for (width, height), cameras in sizes.items():
        if not profile.takes(width, height):
            continue
        for batch in _GRAPH_BATCHES if limit else (0,):
            if batch > min(limit, cameras):
                continue
            spec = rendered.optimization.cuda.graph_spec.add(batch_size=batch)
            shape = (height * 3 // 2, width)
            spec.input[INPUT].dim[:] = shape if limit else (1, *shape)
    if rendered.optimization.cuda.graph_spec:
        rendered.optimization.cuda.graphs = True
