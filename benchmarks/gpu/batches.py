"""Latency of batches of 1 to 8 frames on the GPU, by ONNX Runtime's CUDA and TensorRT providers.

    python benchmarks/gpu/batches.py EXPORT.onnx [--batches 1 2 4 8 --runs 50] [--json FILE]

Give a full-size export (`tridetr models export nano --out nano.onnx`); without one the bundled small model is taken,
which says little about a GPU. The engine is the one that the server runs; providers that are not installed or fail
are named with the reason. `frames_per_second` is the batch over its median time.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rig import FULL_HD, need_gpu, parser, report

from common import fused_model, summary
from tridetr.errors import TridetrError
from tridetr.triton.engine.choice import CUDA, TENSORRT, Choice
from tridetr.triton.engine.session import Engine

WARM_UP = 5


def measure(engine: Engine, batch: int, size: tuple[int, int], runs: int) -> dict[str, Any]:
    width, height = size
    frames = np.random.default_rng(0).integers(0, 256, (batch, height * 3 // 2, width), np.uint8)
    times = []
    for run in range(-WARM_UP, runs):
        began = time.perf_counter()
        engine.run(frames)
        if run >= 0:
            times.append((time.perf_counter() - began) * 1e3)
    per_second = round(1e3 * batch / float(np.median(times)), 1)
    return {"ms": summary(times), "frames_per_second": per_second}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("model", type=Path, nargs="?", help="default: the bundled one")
    made.add_argument("--batches", type=int, nargs="+", default=list(range(1, 9)))
    made.add_argument("--runs", type=int, default=50)
    made.add_argument("--width", type=int, default=FULL_HD[0])
    made.add_argument("--height", type=int, default=FULL_HD[1])
    options = made.parse_args()
    need_gpu()
    size = (options.width, options.height)
    available = onnxruntime.get_available_providers()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tridetr-bench-") as name:
        fused, _ = fused_model(options.model, Path(name))
        for provider in (CUDA, TENSORRT):
            if provider not in available:
                figures[provider] = {
                    "not_measured": f"not in this ONNX Runtime ({', '.join(available)}): "
                    "pip uninstall onnxruntime-openvino, pip install onnxruntime-gpu"
                }
                continue
            try:
                began = time.perf_counter()
                engine = Engine(fused, Choice(provider, "fp32", "benchmark"))
                loaded_s = round(time.perf_counter() - began, 1)
                batches = {
                    str(batch): measure(engine, batch, size, options.runs)
                    for batch in options.batches
                }
                nodes = dict(engine.nodes)
                figures[provider] = {"load_s": loaded_s, "nodes": nodes, "batches": batches}
            except (TridetrError, RuntimeError) as error:
                figures[provider] = {"not_measured": str(error)}
    report(
        "batches",
        options,
        {
            "model": options.model.name if options.model else "bundled (small: give an export)",
            "onnxruntime": onnxruntime.__version__,
            "frame": {"width": size[0], "height": size[1]},
            "providers": figures,
        },
    )


if __name__ == "__main__":
    main()
