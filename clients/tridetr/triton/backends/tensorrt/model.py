"""Python-based `tensorrt` backend, for servers that have only Triton's Python backend.

Runs in the Python backend's stub. This module contains only the interface to Triton; the engine is in
`tridetr.triton.engine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from tridetr.errors import ModelError
from tridetr.models.engine_files import read_facts
from tridetr.models.tensorrt_module import import_tensorrt
from tridetr.triton.describe import write_report
from tridetr.triton.engine.dlpack import frames_of
from tridetr.triton.engine.session import check_shape
from tridetr.triton.engine.stub import answer, log, parameters_of
from tridetr.triton.engine.tensorrt_engine import TensorRtEngine


class TritonPythonModel:
    """One instance of a model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine and report it."""
        parameters = parameters_of(args)
        if args["model_instance_kind"] != "GPU":
            raise ModelError(
                f"{args['model_name']} is a TensorRT engine and needs an NVIDIA GPU, but Triton put it on the CPU. "
                "Remedy: provide a GPU with its driver (docker run --gpus all), or set model.name: rfdetr_ort"
            )
        tensorrt = import_tensorrt()
        from tridetr.cuda.driver import DriverCuda  # needs the extra `gpu`

        plan = Path(args["model_repository"]) / args["model_version"] / "model.plan"
        self._cuda = DriverCuda(int(args["model_instance_device_id"]))
        self._engine = TensorRtEngine(plan, tensorrt, self._cuda)
        facts = read_facts(plan.resolve())
        precision = facts.precision if facts else "unknown"
        log(
            pb_utils.Logger.log_info,
            f"{parameters.get('model_name', args['model_name'])} runs on TensorRT {tensorrt.__version__}, "
            f"{self._cuda.name}, {precision}",
        )
        if path := parameters.get("engine_report"):
            write_report(Path(path), {
                "engine": "tensorrt",
                "provider": "TensorRT",
                "precision": precision if precision != "keep" else parameters.get("precision", "unknown"),
                "reason": f"an engine for {self._cuda.name}",
            })  # fmt: skip

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request separately; one that fails does not affect the others."""
        return [answer(pb_utils, request, self._infer) for request in requests]

    def finalize(self) -> None:
        """Free the engine's memory on the GPU."""
        self._engine.close()
        self._cuda.close()

    def _infer(self, tensor: Any) -> Sequence[Any]:
        frames = frames_of(tensor)
        check_shape(frames.shape)
        return self._engine.run(frames)
