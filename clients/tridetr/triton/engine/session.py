"""An ONNX Runtime session with the chosen provider, verified to run on it.

ONNX Runtime silently falls back to its CPU provider if another one fails or does not support a node. So the first run
is profiled, and its nodes are counted by provider. Frame height and width stay dynamic: after the first resize all
shapes are fixed, and compiling for each frame size gained nothing (measured).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tridetr.contract import INPUT, OUTPUTS
from tridetr.errors import ModelError
from tridetr.triton.engine import rtx
from tridetr.triton.engine.choice import CPU, CUDA, OPENVINO, RTX, TENSORRT, Choice
from tridetr.triton.engine.dlpack import Frames

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
BATCH = "batch"  # name of the dynamic batch dimension in fused graphs
_WARM_UP_SHAPE = (1, 720, 640)  # of a 640x480 frame


class Engine:
    """A loaded model.

    Attributes:
        choice: provider and precision.
        nodes: number of nodes that each provider ran in the warm-up (OpenVINO's subgraph counts as one).
    """

    def __init__(
        self,
        model: Path,
        choice: Choice,
        *,
        threads: int = 0,
        cache_dir: Path | None = None,
        profile: Mapping[str, str] | None = None,
    ) -> None:
        """Load the model and warm it up.

        Args:
            model: an ONNX file of the contract.
            choice: provider and precision.
            threads: number of threads per inference; 0 = all cores.
            cache_dir: folder in which compiled TensorRT engines are cached.
            profile: TensorRT provider options of the optimisation profile (`trt_profile_…`).

        Raises:
            ModelError: ONNX Runtime did not use the chosen provider.
        """
        self.choice = choice
        if cache_dir is not None:
            cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A CPU gains nothing from batches, and is faster if the shapes are known at compile time.
        self._one_by_one = choice.provider in (OPENVINO, CPU)
        self._outputs = list(OUTPUTS)
        self._settings = provider_options(choice, threads, cache_dir, profile)
        with tempfile.TemporaryDirectory(prefix="tridetr-") as folder:
            # Relative, because Python in Triton's stub cannot encode all absolute paths.
            placement = Path(os.path.relpath(folder)) / "placement"
            self._session = self._open(model, threads, placement)
            self.nodes: Mapping[str, int] = self._warm_up()

    def run(self, frames: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return boxes [B, K, 4], scores [B, K] and classes [B, K] of I420 frames uint8 [B, 3H/2, W].

        Raises:
            ModelError: the frames have another type or an invalid shape.
        """
        check_frames(frames)
        if len(frames) > 1 and self._one_by_one:
            each = [self._session.run(self._outputs, {INPUT: frame[None]}) for frame in frames]
            return [np.concatenate(parts) for parts in zip(*each, strict=True)]
        results: list[npt.NDArray[Any]] = self._session.run(self._outputs, {INPUT: frames})
        return results

    def run_bound(self, frames: Frames) -> list[npt.NDArray[Any]]:
        """Return boxes, scores and classes of frames in host or GPU memory, without copying the frames.

        Raises:
            ModelError: the frames have an invalid shape.
        """
        check_shape(frames.shape)
        binding = self._session.io_binding()
        device, number = ("cpu", 0) if frames.gpu is None else ("cuda", frames.gpu)
        binding.bind_input(INPUT, device, number, np.uint8, frames.shape, frames.pointer)
        for name in self._outputs:
            binding.bind_output(name)  # on the host, from where the response is sent
        self._session.run_with_iobinding(binding)
        results: list[npt.NDArray[Any]] = binding.copy_outputs_to_cpu()
        return results

    def _open(self, model: Path, threads: int, profile: Path) -> Any:
        import onnxruntime

        options = session_options(threads, {BATCH: 1} if self._one_by_one else {})
        options.enable_profiling = True  # ends with the warm-up
        options.profile_file_prefix = str(profile)
        providers = [(self.choice.provider, self._settings)]
        if self.choice.provider == TENSORRT:
            # Nodes that TensorRT does not support stay on the GPU.
            providers.append((CUDA, provider_options(Choice(CUDA, "fp32", ""), 0, None)))
        if self.choice.provider == RTX:
            options.add_provider_for_devices(rtx.devices(), self._settings)
            session = onnxruntime.InferenceSession(str(model), options)
        else:
            session = onnxruntime.InferenceSession(str(model), options, providers=providers)
        require_provider(session, self.choice.provider)
        return session

    def _warm_up(self) -> dict[str, int]:
        self.run(np.full(_WARM_UP_SHAPE, 128, np.uint8))
        placed = count_providers(Path(self._session.end_profiling()).read_text())
        if not placed.get(self.choice.provider):
            raise ModelError(
                f"ONNX Runtime ran no node on {self.choice.provider}, but {placed or 'none at all'}"
            )
        return placed


def session_options(threads: int, dimensions: Mapping[str, int]) -> Any:
    """Return ONNX Runtime's options for a session of this process.

    Args:
        threads: number of threads per inference; 0 = all cores.
        dimensions: fixed values of dynamic dimensions, by name.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    # Spinning threads would take the cores from the cameras' decoders.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, value in dimensions.items():
        options.add_free_dimension_override_by_name(name, value)
    return options


def require_provider(session: Any, provider: str) -> None:
    """Check that a session uses a provider, and keep it from falling back to another one later.

    Raises:
        ModelError: ONNX Runtime has silently used another provider.
    """
    session.disable_fallback()
    if session.get_providers()[0] != provider:
        raise ModelError(f"ONNX Runtime did not use {provider} but {session.get_providers()}")


def provider_options(
    choice: Choice, threads: int, cache_dir: Path | None, profile: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return ONNX Runtime's options for the chosen provider; the arguments are those of `Engine`."""
    if choice.provider == OPENVINO:
        plugin: dict[str, str] = {
            "INFERENCE_PRECISION_HINT": _HINTS[choice.precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
        }
        if threads:
            plugin["INFERENCE_NUM_THREADS"] = str(threads)
        # No cache_dir: reading a compiled Nano back took longer than compiling it (2.0 s of CPU time against 1.6).
        return {"device_type": "CPU", "load_config": json.dumps({"CPU": plugin})}
    if choice.provider == TENSORRT and cache_dir is not None:
        kept = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache_dir)}
        return {**kept, **(profile or {})}
    if choice.provider == RTX:
        return {"nv_runtime_cache_path": str(cache_dir)} if cache_dir is not None else {}
    if choice.provider == CUDA:
        # The exhaustive search, which is the default, would run again for each new batch size.
        return {"cudnn_conv_algo_search": "HEURISTIC"}
    return {}


def check_frames(frames: npt.NDArray[Any]) -> None:
    """Check that an array is a batch of I420 frames.

    Raises:
        ModelError: it is not; the message shows the expected and the actual type and shape.
    """
    if frames.dtype != np.uint8:
        raise ModelError(
            f"expected frame UINT8 [B, 3H/2, W], found {frames.dtype} {list(frames.shape)}"
        )
    check_shape(frames.shape)


def check_shape(shape: tuple[int, ...]) -> None:
    """Check that a shape is that of a batch of I420 frames [B, 3H/2, W].

    Raises:
        ModelError: it is not; the message shows the expected and the actual shape.
    """
    if len(shape) != 3 or 0 in shape:
        raise ModelError(f"expected frame UINT8 [B, 3H/2, W], found uint8 {list(shape)}")
    rows, width = shape[1:]
    if rows % 3 or width % 2:
        raise ModelError(
            f"expected an I420 frame of even height and width, found {rows} rows of {width} bytes"
        )


def count_providers(profile: str) -> dict[str, int]:
    """Return the number of nodes by provider in ONNX Runtime's profile of a run (JSON trace events)."""
    events = json.loads(profile)
    kernels = {
        (event["args"].get("node_index"), event["name"], event["args"]["provider"])
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    }
    return dict(Counter(provider for *_, provider in kernels))
