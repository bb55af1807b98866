"""The engine alone: gain of fixed shapes, CUDA graphs, fused kernels and FP16, for batches of 1 to 8.

    python benchmarks/gpu/engine.py EXPORT.onnx [--batches 1 2 4 8 --runs 40] [--json FILE]

All variants take turns in one run: the whole graph with dynamic sizes, with fixed sizes, with a CUDA graph (batch 1);
the engine that the server runs (cut at the network's input), without and with CUDA graphs; the network alone with the
graphs of all batch sizes in one session (`gpu_graph_id`); the engine over the model of `tridetr models fuse --target
cuda`, with fused kernels and with FP16, whether `fuse` would keep it or not. `mib` is the GPU memory that loading took.
Give a full-size export with a dynamic batch: the bundled model is too small to measure a GPU.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from rig import FULL_HD, BenchGpu, need_gpu, report

from common import argument_parser, fused_model, summary
from tridetr.contract import INPUT
from tridetr.errors import ModelError
from tridetr.models import cuda_form
from tridetr.models.unwrap import network_of, with_network
from tridetr.triton.engine.choice import CUDA, Choice
from tridetr.triton.engine.dlpack import Frames
from tridetr.triton.engine.session import BATCH, provider_options
from tridetr.triton.engine.split import split
from tridetr.triton.engine.static import StaticEngine
from tridetr.triton.engine.static_sessions import Network

CHOICE = Choice(CUDA, "fp32", "benchmark")
WARM_UP = 5
Run = Callable[[], object]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def whole(model: Path, frames: Pixels, *, fixed: bool, graph: bool) -> Run:
    """Return a run of the whole graph, with its input on the GPU."""
    batch, rows, width = frames.shape
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if fixed:
        for name, value in ((BATCH, batch), ("rows", rows), ("width", width)):
            options.add_free_dimension_override_by_name(name, value)
    settings = provider_options(CHOICE, 0, None) | {"enable_cuda_graph": str(int(graph))}
    session = onnxruntime.InferenceSession(str(model), options, providers=[(CUDA, settings)])
    binding = session.io_binding()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(frames, "cuda", 0)
    binding.bind_ortvalue_input(INPUT, value)
    make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
    for output in session.get_outputs():
        kind = np.int32 if output.type == "tensor(int32)" else np.float32
        binding.bind_ortvalue_output(output.name, make([batch, *output.shape[1:]], kind, "cuda", 0))
    return lambda: session.run_with_iobinding(binding)


def ours(
    gpu: BenchGpu, model: Path, frames: Pixels, batches: list[int], *, graph: bool
) -> dict[int, Run]:
    """Return runs of the server's engine for each batch size, with each frame on the GPU."""
    _, rows, width = frames.shape
    engine = StaticEngine(
        model, CHOICE, sizes=[(rows, width)], most=max(batches), graphs=graph, warn=complain
    )
    if graph and not engine.graphs:
        raise ModelError("the network cannot be captured as a CUDA graph")
    pointer, stream = gpu.allocate(frames.nbytes), gpu.make_stream()
    gpu.upload(pointer, frames.ctypes.data, frames.nbytes, stream)
    gpu.wait(stream)
    size = frames[0].nbytes
    each = [Frames(pointer + index * size, (1, rows, width), 0) for index in range(max(batches))]
    return {batch: partial(engine.run, each[:batch]) for batch in batches}


def annotated(model: Path, batches: list[int]) -> dict[int, Run]:
    """Return runs of the network alone, in one session that keeps a CUDA graph for each batch size."""
    parts = split(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    settings = provider_options(CHOICE, 0, None) | {"enable_cuda_graph": "1"}
    session = onnxruntime.InferenceSession(parts.network, options, providers=[(CUDA, settings)])
    runs: dict[int, Run] = {}
    for batch in batches:
        chosen = onnxruntime.RunOptions()
        chosen.add_run_config_entry("gpu_graph_id", str(batch))
        network = Network(session, parts, batch, "cuda")
        runs[batch] = partial(network.run, chosen)
    return runs


def complain(text: str) -> None:
    """Print a warning of the engine."""
    sys.stderr.write(f"{text}\n")


def rewritten(fused: Path, folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Write the models of `tridetr models fuse --target cuda`; return them, and the changes it would not keep."""
    portable = onnx.load(fused)
    joined = cuda_form.join(network_of(portable))
    files: dict[str, Path] = {}
    for name, network in (("joined kernels", joined), ("FP16", cuda_form.halve(joined))):
        files[name] = folder / f"{len(files)}.onnx"
        onnx.save(with_network(portable, network), files[name])
    found = cuda_form.for_cuda(portable)
    return files, [f"half: {found.half}", f"joined: {found.kernels}", *found.refused]


def main() -> None:
    made = argument_parser(__doc__)
    made.add_argument("model", type=Path, nargs="?", help="default: the bundled model")
    made.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    made.add_argument("--runs", type=int, default=40)
    options = made.parse_args()
    need_gpu()
    onnxruntime.preload_dlls()
    if CUDA not in onnxruntime.get_available_providers():
        raise SystemExit("onnxruntime-gpu is not installed in place of onnxruntime-openvino")
    gpu = BenchGpu.open()
    width, height = FULL_HD
    batches = sorted(options.batches)
    dice = np.random.default_rng(0)
    frames = dice.integers(0, 256, (batches[-1], height * 3 // 2, width), np.uint8)
    one = frames[:1]
    with tempfile.TemporaryDirectory(prefix="tridetr-bench-") as name:
        fused, _ = fused_model(options.model, Path(name))
        ways: dict[str, Callable[[], dict[int, Run]]] = {
            "whole, open": lambda: {1: whole(fused, one, fixed=False, graph=False)},
            "whole, fixed": lambda: {1: whole(fused, one, fixed=True, graph=False)},
            "whole, fixed, graph": lambda: {1: whole(fused, one, fixed=True, graph=True)},
            "network alone, graphs in one session": lambda: annotated(fused, batches),
            "engine": lambda: ours(gpu, fused, frames, batches, graph=False),
            "engine, graph": lambda: ours(gpu, fused, frames, batches, graph=True),
        }
        notes: list[str] = []
        try:
            files, notes = rewritten(fused, Path(name))
            for kind, file in files.items():
                ways[f"engine, graph, {kind}"] = partial(
                    ours, gpu, file, frames, batches, graph=True
                )
        except ModelError as error:
            notes = [str(error)]
        figures = measure(gpu, ways, batches, options.runs)
    gpu.close()
    model = options.model.name if options.model else "bundled (small: give an export)"
    head = {"model": model, "onnxruntime": onnxruntime.__version__, "for cuda": notes}
    report("engine", options, {**head, "ways": figures})


def measure(
    gpu: BenchGpu, ways: dict[str, Callable[[], dict[int, Run]]], batches: list[int], runs: int
) -> dict[str, Any]:
    """Load all variants, then let them take turns for each batch size."""
    rows: dict[str, Any] = {}
    ready: dict[str, dict[int, Run]] = {}
    for name, make in ways.items():
        free = gpu.free_mib()
        try:
            found = make()
            for run in found.values():
                for _ in range(WARM_UP):
                    run()
        except Exception as error:  # ONNX Runtime's own exception types
            rows[name] = {"not_measured": str(error)[:300]}
            continue
        ready[name] = found
        rows[name] = {"mib": round(free - gpu.free_mib(), 1)}
    for batch in batches:
        times: dict[str, list[float]] = {name: [] for name in ready if batch in ready[name]}
        for _ in range(runs):
            for name, values in times.items():
                began = time.perf_counter()
                ready[name][batch]()
                values.append((time.perf_counter() - began) * 1e3)
        for name, values in times.items():
            per_second = round(1e3 * batch / float(np.median(values)), 1)
            rows[name][f"batch {batch}"] = {
                "ms": summary(values),
                "frames_per_second": per_second,
            }
    return rows


if __name__ == "__main__":
    main()
