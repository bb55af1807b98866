"""One ONNX Runtime session with the chosen provider, checked to really run there.

ONNX Runtime falls back to its CPU provider in silence when another one fails or leaves nodes behind, so the first
run is profiled and counted by provider. Frame height and width stay dynamic: behind the first resize every shape
is fixed, and compiling for each frame size gained nothing (measured).
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
BATCH = "batch"  # the name of the open batch dimension in fused graphs
WARM_UP_SIZES = ((640, 480),)  # width, height


class Engine:
    """A loaded model.

    Attributes:
        choice: provider and precision.
        nodes: how many nodes of the prepared graph each provider ran (OpenVINO's subgraph is one).
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
        """Load and warm up.

        Args:
            model: an ONNX file of the contract.
            choice: provider and precision.
            threads: threads of one inference; 0 = all cores.
            cache_dir: where TensorRT engines are kept for the next start.
            profile: TensorRT's settings of the optimisation profile (`trt_profile_…`).

        Raises:
            ModelError: ONNX Runtime did not use the chosen provider.
        """
        self.choice = choice
        if cache_dir is not None:
            cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A CPU gains nothing from batches, and shapes that are known at compilation make it faster.
        self._one_by_one = choice.provider in (OPENVINO, CPU)
        self._outputs = list(OUTPUTS)
        self._settings = provider_options(choice, threads, cache_dir, profile)
        with tempfile.TemporaryDirectory(prefix="tridetr-") as folder:
            # Relative: inside Triton's stub, Python cannot encode all absolute paths.
            placement = Path(os.path.relpath(folder)) / "placement"
            self._session = self._open(model, threads, placement)
            self.nodes: Mapping[str, int] = self._warm_up()

    def run(self, frames: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return boxes [B, K, 4], scores [B, K] and classes [B, K] of I420 frames [B, 3H/2, W].

        Raises:
            ModelError: these are no such frames.
        """
        check_frames(frames)
        if len(frames) > 1 and self._one_by_one:
            each = [self._session.run(self._outputs, {INPUT: frame[None]}) for frame in frames]
            return [np.concatenate(parts) for parts in zip(*each, strict=True)]
        results: list[npt.NDArray[Any]] = self._session.run(self._outputs, {INPUT: frames})
        return results

    def run_bound(self, frames: Frames) -> list[npt.NDArray[Any]]:
        """Return boxes, scores and classes of frames that are used where they lie, such as in a CUDA region.

        Raises:
            ModelError: these are no such frames.
        """
        check_shape(frames.shape)
        binding = self._session.io_binding()
        device, number = ("cpu", 0) if frames.gpu is None else ("cuda", frames.gpu)
        binding.bind_input(INPUT, device, number, np.uint8, frames.shape, frames.pointer)
        for name in self._outputs:
            binding.bind_output(name)  # on the host, where the answer leaves from
        self._session.run_with_iobinding(binding)
        results: list[npt.NDArray[Any]] = binding.copy_outputs_to_cpu()
        return results

    def _open(self, model: Path, threads: int, profile: Path) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_profiling = True  # until the end of the warm-up
        options.profile_file_prefix = str(profile)
        if threads:
            options.intra_op_num_threads = threads
        # Spinning threads would take the cores from the cameras' decoders.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self._one_by_one:
            options.add_free_dimension_override_by_name(BATCH, 1)
        providers = [(self.choice.provider, self._settings)]
        if self.choice.provider == TENSORRT:
            # What TensorRT leaves behind stays on the GPU.
            providers.append((CUDA, provider_options(Choice(CUDA, "fp32", ""), 0, None)))
        if self.choice.provider == RTX:
            options.add_provider_for_devices(rtx.devices(), self._settings)
            session = onnxruntime.InferenceSession(str(model), options)
        else:
            session = onnxruntime.InferenceSession(str(model), options, providers=providers)
        session.disable_fallback()
        if session.get_providers()[0] != self.choice.provider:
            raise ModelError(
                f"ONNX Runtime did not take {self.choice.provider} but {session.get_providers()}"
            )
        return session

    def _warm_up(self) -> dict[str, int]:
        for width, height in WARM_UP_SIZES:
            self.run(np.full((1, height * 3 // 2, width), 128, np.uint8))
        placed = count_providers(Path(self._session.end_profiling()).read_text())
        if not placed.get(self.choice.provider):
            raise ModelError(
                f"ONNX Runtime ran no node on {self.choice.provider}, but {placed or 'none at all'}"
            )
        return placed


def provider_options(
    choice: Choice, threads: int, cache_dir: Path | None, profile: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return ONNX Runtime's options of the chosen provider."""
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
        return rtx.settings(cache_dir)
    if choice.provider == CUDA:
        # The exhaustive search, the default, would run anew for each batch size that is seen for the first time.
        return {"cudnn_conv_algo_search": "HEURISTIC"}
    return {}


def check_frames(frames: npt.NDArray[Any]) -> None:
    """Refuse what is not a batch of I420 frames.

    Raises:
        ModelError: says what was wanted and what was found.
    """
    if frames.dtype != np.uint8:
        raise ModelError(
            f"wanted frame UINT8 [B, 3H/2, W], found {frames.dtype} {list(frames.shape)}"
        )
    check_shape(frames.shape)


def check_shape(shape: tuple[int, ...]) -> None:
    """Refuse what is no shape of a batch of I420 frames.

    Raises:
        ModelError: says what was wanted and what was found.
    """
    if len(shape) != 3 or 0 in shape:
        raise ModelError(f"wanted frame UINT8 [B, 3H/2, W], found uint8 {list(shape)}")
    rows, width = shape[1:]
    if rows % 3 or width % 2:
        raise ModelError(
            f"wanted an I420 frame of even height and width, found {rows} rows of {width} bytes"
        )


def count_providers(profile: str) -> dict[str, int]:
    """Count the nodes of one run by provider in ONNX Runtime's profile (JSON trace events)."""
    events = json.loads(profile)
    kernels = {
        (event["args"].get("node_index"), event["name"], event["args"]["provider"])
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    }
    return dict(Counter(provider for *_, provider in kernels))
