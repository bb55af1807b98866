"""The engine alone: what fixed shapes, CUDA graphs, joined kernels and FP16 give, for batches of 1 to 8.

    python benchmarks/gpu/engine.py EXPORT.onnx [--batches 1 2 4 8 --runs 40] [--json FILE]

All ways take turns in one run: the whole graph with open sizes, with fixed sizes, with a CUDA graph; the engine that
the server runs (cut at the network's input), without and with CUDA graphs; the same over the model of `tridetr models
fuse --target cuda`. `mib` is what loading it took of the GPU's memory. Give a full-size export: the bundled model says
little about a GPU.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from rig import FULL_HD, BenchGpu, need_gpu, parser, report

from common import fused_model, summary
from tridetr.contract import INPUT
from tridetr.errors import ModelError
from tridetr.models.cuda_form import for_cuda
from tridetr.triton.engine.choice import CUDA, Choice
from tridetr.triton.engine.dlpack import Frames
from tridetr.triton.engine.session import BATCH, provider_options
from tridetr.triton.engine.static import StaticEngine

CHOICE = Choice(CUDA, "fp32", "benchmark")
WARM_UP = 5
Run = Callable[[], object]


def whole(
    model: Path, frames: np.ndarray[Any, np.dtype[np.uint8]], *, fixed: bool, graph: bool
) -> Run:
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
    gpu: BenchGpu, model: Path, frames: np.ndarray[Any, np.dtype[np.uint8]], *, graph: bool
) -> Run:
    """Return a run of the server's engine, with each frame on the GPU."""
    batch, rows, width = frames.shape
    engine = StaticEngine(model, CHOICE, sizes=[(rows, width)], most=batch, graphs=graph)
    if graph and not engine.graphs:
        raise ModelError("the network cannot be captured as a CUDA graph")
    pointer, stream = gpu.allocate(frames.nbytes), gpu.make_stream()
    gpu.upload(pointer, frames.ctypes.data, frames.nbytes, stream)
    gpu.wait(stream)
    each = [
        Frames(pointer + index * frames[0].nbytes, (1, rows, width), 0) for index in range(batch)
    ]
    return lambda: engine.run(each)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("model", type=Path, nargs="?", help="default: the bundled one")
    made.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    made.add_argument("--runs", type=int, default=40)
    options = made.parse_args()
    need_gpu()
    onnxruntime.preload_dlls()
    if CUDA not in onnxruntime.get_available_providers():
        raise SystemExit("onnxruntime-gpu is not installed in place of onnxruntime-openvino")
    gpu = BenchGpu.open()
    width, height = FULL_HD
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tridetr-bench-") as name:
        fused, _ = fused_model(options.model, Path(name))
        rewritten, notes = None, []
        try:
            found = for_cuda(onnx.load(fused))
            rewritten = Path(name) / "cuda.onnx"
            onnx.save(found.model, rewritten)
            notes = [f"half: {found.half}", f"joined: {found.kernels}", *found.refused]
        except ModelError as error:
            notes = [str(error)]
        for batch in options.batches:
            dice = np.random.default_rng(0)
            frames = dice.integers(0, 256, (batch, height * 3 // 2, width), np.uint8)
            ways: dict[str, Callable[[], Run]] = {
                "whole, open": partial(whole, fused, frames, fixed=False, graph=False),
                "whole, fixed": partial(whole, fused, frames, fixed=True, graph=False),
                "whole, fixed, graph": partial(whole, fused, frames, fixed=True, graph=True),
                "engine": partial(ours, gpu, fused, frames, graph=False),
                "engine, graph": partial(ours, gpu, fused, frames, graph=True),
            }
            if rewritten is not None:
                ways["engine, graph, for cuda"] = partial(ours, gpu, rewritten, frames, graph=True)
            figures[f"batch {batch}"] = measure(gpu, ways, batch, options.runs)
    gpu.close()
    model = options.model.name if options.model else "bundled (small: give an export)"
    report(
        "engine",
        options,
        {"model": model, "onnxruntime": onnxruntime.__version__, "for cuda": notes, **figures},
    )


def measure(
    gpu: BenchGpu, ways: dict[str, Callable[[], Run]], batch: int, runs: int
) -> dict[str, Any]:
    """Load all ways, then let them take turns."""
    rows: dict[str, Any] = {}
    ready: dict[str, Run] = {}
    for name, make in ways.items():
        free = gpu.free_mib()
        try:
            run = make()
            for _ in range(WARM_UP):
                run()
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types
            rows[name] = {"not_measured": str(error)[:300]}
            continue
        ready[name] = run
        rows[name] = {"mib": round(free - gpu.free_mib(), 1)}
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(runs):
        for name, run in ready.items():
            began = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - began) * 1e3)
    for name, values in times.items():
        per_second = round(1e3 * batch / float(np.median(values)), 1)
        rows[name] |= {"ms": summary(values), "frames_per_second": per_second}
    return rows


if __name__ == "__main__":
    main()
