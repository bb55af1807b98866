"""Results of every frame of a video: the server's engine on the GPU compared with ONNX Runtime on the CPU.

    python benchmarks/gpu/footage.py [MODEL.onnx] [--video FILE --frames 60] [--json FILE]

TF32, which is on by default, changes scores slightly. `lost` counts detections above 0.5 on one side without one of the
same class within 5 pixels on the other.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rig import BenchGpu, need_gpu, report

from common import argument_parser, fused_model
from decode import write_clip
from tridetr.capture.sources.av import open_video
from tridetr.triton.engine.choice import CPU, CUDA, Choice
from tridetr.triton.engine.dlpack import Frames
from tridetr.triton.engine.session import Engine
from tridetr.triton.engine.static import StaticEngine

SURE, NEAR_PX = 0.5, 5.0


def lost(found: list[Any], expected: list[Any]) -> int:
    """Count the confident detections without a counterpart."""
    count = 0
    for one, other in ((found, expected), (expected, found)):
        boxes, scores, classes = (part[0] for part in one)
        for index in np.flatnonzero(scores >= SURE):
            near = np.abs(other[0][0] - boxes[index]).max(axis=1) <= NEAR_PX
            count += not (near & (other[2][0] == classes[index])).any()
    return count


def main() -> None:
    made = argument_parser(__doc__)
    made.add_argument("model", type=Path, nargs="?", help="default: the bundled model")
    made.add_argument("--video", type=Path, help="default: a synthetic one")
    made.add_argument("--frames", type=int, default=60)
    options = made.parse_args()
    need_gpu()
    onnxruntime.preload_dlls()
    BenchGpu.open().close()
    score, missing, frames = 0.0, 0, 0
    with tempfile.TemporaryDirectory(prefix="tridetr-bench-") as name:
        fused, _ = fused_model(options.model, Path(name))
        video = options.video or Path(name) / "clip.mkv"
        if options.video is None:
            write_clip(video, "libx264", "yuv420p", {"preset": "veryfast"}, (1280, 720))
        cpu = Engine(fused, Choice(CPU, "fp32", "benchmark"))
        gpu = StaticEngine(fused, Choice(CUDA, "fp32", "benchmark"))
        container, _ = open_video(str(video), shown=video.name, options={}, timeout_s=5)
        with container:
            for frame in itertools.islice(container.decode(video=0), options.frames):
                planes = np.ascontiguousarray(frame.reformat(format="yuv420p").to_ndarray()[None])
                (found,) = gpu.run([Frames(int(planes.ctypes.data), planes.shape, None)])
                expected = cpu.run(planes)
                score = max(score, float(np.abs(found[1] - expected[1]).max()))
                missing += lost(found, expected)
                frames += 1
    report(
        "footage",
        options,
        {"frames": frames, "largest_score_difference": round(score, 4), "lost": missing},
    )


if __name__ == "__main__":
    main()
