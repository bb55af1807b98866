"""Python-based `onnxruntime` backend, for servers that have only Triton's Python backend.

Runs in the Python backend's stub. This module contains only the interface to Triton; the engine is in
`tridetr.triton.engine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

from tridetr.errors import ModelError
from tridetr.triton.describe import write_report
from tridetr.triton.engine.choice import CPU, CUDA, Choice, choose, cpu_flags
from tridetr.triton.engine.dlpack import frames_of
from tridetr.triton.engine.session import Engine
from tridetr.triton.engine.static import StaticEngine
from tridetr.triton.engine.stub import answer, answer_all, log, parameters_of


class TritonPythonModel:
    """One instance of a model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Choose the provider, load the model, warm it up, and report the result."""
        parameters = parameters_of(args)
        wanted = parameters.get("provider", "auto")
        choice = choose(
            wanted,
            parameters.get("engine_precision", "auto"),
            available=onnxruntime.get_available_providers(),
            flags=cpu_flags(),
            gpu=args["model_instance_kind"] == "GPU",
            ours="contract" in parameters,
        )
        cache = parameters.get("cache_dir")
        self._shown: Mapping[str, int] = {}
        self._metrics: dict[str, Any] = {}
        model = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._static = (
            self._load_static(model, choice, parameters) if choice.provider == CUDA else None
        )
        if self._static is not None:
            engine = self._static
            how = (
                f"batches of {engine.batches}, {'with' if engine.graphs else 'without'} CUDA graphs"
            )
            if engine.memory is not None:
                how += f"; GPU memory: {engine.memory}"
                self._gauge = pb_utils.MetricFamily(
                    name="tridetr_engine_memory_bytes",
                    description="GPU memory by session of the model",
                    kind=pb_utils.MetricFamily.GAUGE,
                )
                self._show_memory()
            self._report(args, parameters, choice, how)
            return
        load = partial(
            Engine,
            model,
            threads=int(parameters.get("intra_op_thread_count", "0")),
            cache_dir=Path(cache) if cache else None,
            profile={
                key: text for key, text in parameters.items() if key.startswith("trt_profile_")
            },
        )
        try:
            self._engine = load(choice)
        except Exception as error:  # ONNX Runtime's own exception types
            if wanted not in ("auto", "auto-cpu") or choice.provider == CPU:
                raise
            log(
                pb_utils.Logger.log_warn,
                f"{choice.provider} fails, falling back to the CPU provider: {error}",
            )
            choice = Choice(CPU, "fp32", f"{choice.provider} fails with this model")
            self._engine = load(choice)
        nodes = ", ".join(f"{name}: {count}" for name, count in self._engine.nodes.items())
        self._report(args, parameters, choice, f"nodes by provider: {nodes}")

    def _load_static(
        self, model: Path, choice: Choice, parameters: dict[str, str]
    ) -> StaticEngine | None:
        """Load the model with fixed shapes; None if its file does not support that."""
        onnxruntime.preload_dlls()  # CUDA and cuDNN of pip are found without LD_LIBRARY_PATH
        try:
            return StaticEngine(
                model,
                choice,
                sizes=[
                    (int(rows), int(width))
                    for rows, _, width in (
                        text.partition("x")
                        for text in parameters.get("frame_sizes", "").split(",")
                        if text
                    )
                ],
                most=int(parameters.get("cameras", "1")),
                threads=int(parameters.get("intra_op_thread_count", "0")),
                warn=partial(log, pb_utils.Logger.log_warn),
                note=partial(log, pb_utils.Logger.log_info),
            )
        except ModelError as error:
            log(
                pb_utils.Logger.log_warn,
                f"the model runs with dynamic shapes, more slowly: {error}",
            )
            return None

    def _report(
        self, args: dict[str, str], parameters: dict[str, str], choice: Choice, how: str
    ) -> None:
        """Log the provider and precision, and write the engine report for the clients."""
        log(
            pb_utils.Logger.log_info,
            f"{parameters.get('model_name', args['model_name'])} runs on ONNX Runtime {onnxruntime.__version__}, "
            f"{choice.provider}, {choice.precision} ({choice.reason}); {how}",
        )
        stored = parameters.get("precision", "")
        if path := parameters.get("engine_report"):
            write_report(Path(path), {
                "engine": "onnxruntime",
                "provider": choice.provider,
                "precision": f"int8+{choice.precision}" if stored == "int8" else choice.precision,
                "reason": choice.reason,
            })  # fmt: skip

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests; one that fails does not affect the others.

        On a GPU they share a batch. On a CPU a batch of two takes as long as two runs, and the first answer would be
        late.
        """
        if self._static is not None:
            answers = answer_all(pb_utils, requests, self._static.run)
            self._show_memory()
            return answers
        return [answer(pb_utils, request, self._infer) for request in requests]

    def _show_memory(self) -> None:
        """Update the metric after sessions were opened or closed."""
        if self._static is None or self._static.memory is None:
            return
        taken = self._static.memory.taken
        if taken == self._shown:
            return
        for session in self._shown.keys() | taken.keys():
            if session not in self._metrics:
                self._metrics[session] = self._gauge.Metric(labels={"session": session})
            self._metrics[session].set(taken.get(session, 0))
        self._shown = taken

    def _infer(self, tensor: Any) -> Sequence[Any]:
        if tensor.is_cpu():
            # Not as_numpy(): with numpy >= 2, Triton 2.51 returns an array that repeats the first byte.
            return self._engine.run(np.from_dlpack(tensor))
        return self._engine.run_bound(frames_of(tensor))
