"""Run a model file directly, without Triton, for checks and measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from tridetr.contract import Tensor, check_contract
from tridetr.errors import ModelError
from tridetr.models.choices import Engine

_TRITON_TYPES = {"tensor(uint8)": "UINT8", "tensor(float)": "FP32", "tensor(int32)": "INT32"}


def open_session(
    model: Path | onnx.ModelProto, engine: Engine = Engine.CPU, threads: int = 0
) -> Any:
    """Open an ``onnxruntime.InferenceSession`` on the given engine.

    Args:
        model: a file, or a model in memory (below 2 GB).
        engine: execution provider and precision.
        threads: number of threads per inference; 0 = all cores.

    Raises:
        ModelError: the provider is not installed, or cannot load the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors arrive as exceptions, once
    provider, settings = _provider(engine, threads)
    if provider not in onnxruntime.get_available_providers():
        raise ModelError(
            f"{provider} is not in this onnxruntime (it has "
            f"{', '.join(onnxruntime.get_available_providers())}); install onnxruntime-openvino or "
            "onnxruntime-gpu instead of onnxruntime, never together with it"
        )
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[(provider, settings)])
    except Exception as error:  # ONNX Runtime's own exception types
        raise ModelError(f"ONNX Runtime ({engine.value}) cannot load the model: {error}") from error
    if session.get_providers()[0] != provider:
        raise ModelError(f"{provider} could not be started; ONNX Runtime fell back to the CPU")
    return session


def _provider(engine: Engine, threads: int) -> tuple[str, dict[str, str]]:
    if engine is Engine.CPU:
        return "CPUExecutionProvider", {}
    if engine is Engine.CUDA:
        return "CUDAExecutionProvider", {}
    precision = "bf16" if engine is Engine.OPENVINO_BF16 else "f32"
    config: dict[str, object] = {"INFERENCE_PRECISION_HINT": precision}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    return "OpenVINOExecutionProvider", {
        "device_type": "CPU",
        "load_config": json.dumps({"CPU": config}),
    }


def run_frame(
    session: Any, frame: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Run a contract model on one I420 frame.

    Args:
        session: from ``open_session``.
        frame: uint8 [3H/2, W].

    Returns:
        Boxes float32 [K, 4] (xyxy in source pixels), scores float32 [K] and class ids int32 [K].
    """
    boxes, scores, classes = session.run(["boxes", "scores", "classes"], {"frame": frame[None]})
    return boxes[0], scores[0], classes[0]


def require_contract(session: Any, name: str) -> None:
    """Check that a session's model conforms to the contract; raises as `check_contract`."""
    check_contract(name, map(_tensor, session.get_inputs()), map(_tensor, session.get_outputs()))


def _tensor(value: Any) -> Tensor:
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return Tensor(value.name, _TRITON_TYPES.get(value.type, value.type), shape)
