"""Measure the model alone: the bare network and the fused graph, with each provider and precision, and INT8.

    python benchmarks/model.py [MODEL.onnx] [--runs 15 --width 1920 --height 1080] [--int8 QUANTIZED.onnx] [--json FILE]

All sessions are in this process and take turns. ``ms`` is wall time; ``cpu_ms`` the CPU time of one run by all
threads, which a busy machine changes least (threads do not spin: CPU time is work). `bare` runs the network on a
prepared input, `fused` the whole graph of the file on a frame, `served` the same with the pre-processing that the node
uses for this provider. INT8 files come from `tridetr models quantize`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from common import (
    argument_parser,
    as_served,
    bare_session,
    fused_model,
    machine,
    summary,
    write_json,
)
from tridetr.triton.engine.choice import CPU, CUDA, OPENVINO, Choice, cpu_flags
from tridetr.triton.engine.session import Engine

WARM_UP = 2


def choices() -> list[Choice]:
    """Return the cases that can be measured on this machine."""
    available = onnxruntime.get_available_providers()
    wanted = [Choice(CPU, "fp32", ""), Choice(OPENVINO, "fp32", "")]
    if cpu_flags() & {"amx_bf16", "avx512_bf16"}:
        wanted.append(Choice(OPENVINO, "bf16", ""))
    wanted.append(Choice(CUDA, "fp32", ""))
    return [choice for choice in wanted if choice.provider in available]


def take_turns(cases: dict[str, Callable[[], object]], runs: int) -> dict[str, dict[str, Any]]:
    """Time all cases in turn."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    for run in range(-WARM_UP, runs):
        for name, case in cases.items():
            began, used = time.perf_counter(), time.process_time()
            case()
            if run >= 0:
                times[name].append((time.perf_counter() - began) * 1e3)
                cpu[name].append((time.process_time() - used) * 1e3)
    return {name: {"ms": summary(times[name]), "cpu_ms": summary(cpu[name])} for name in cases}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("model", type=Path, nargs="?", help="default: the bundled model")
    parser.add_argument("--int8", type=Path, help="the same model, quantised")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    frame = np.random.default_rng(0).integers(
        0, 256, (1, options.height * 3 // 2, options.width), np.uint8
    )
    cases: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory(prefix="tridetr-bench-") as name:
        fused, bare = fused_model(options.model, Path(name))
        for choice in choices():
            label = f"{choice.provider.removesuffix('ExecutionProvider')} {choice.precision}"
            cases[f"{label}, bare"] = bare_session(bare, choice, options.threads)
            files = {"fused": fused, "served": as_served(fused, choice, Path(name))}
            if options.int8:
                files["served int8"] = as_served(options.int8, choice, Path(name))
            for kind, file in files.items():
                engine = Engine(file, choice, threads=options.threads)
                cases[f"{label}, {kind}"] = partial(engine.run, frame)
        figures = take_turns(cases, options.runs)
    base = next(iter(figures.values()))  # plain ONNX Runtime, fp32, bare
    ratios = {
        name: round(row["cpu_ms"]["p50"] / base["cpu_ms"]["p50"], 3)
        for name, row in figures.items()
    }
    result = {
        "benchmark": "model",
        "machine": machine(),
        "model": options.model.name if options.model else "bundled",
        "frame": {"width": options.width, "height": options.height},
        "figures": figures,
        "ratio of CPU time to plain ONNX Runtime fp32, bare": ratios,
    }
    for name, row in figures.items():
        ratio = ratios[name]
        ms, cpu = row["ms"], row["cpu_ms"]
        print(
            f"{name:28} {ms['p50']:8.1f} ms (best {ms['min']:7.1f})  cpu {cpu['p50']:8.1f} ms  × {ratio}"
        )
    write_json(options, result)


if __name__ == "__main__":
    main()
