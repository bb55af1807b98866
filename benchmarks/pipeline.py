"""Measure the pipeline tax: the time that everything around the model adds to it.

    python benchmarks/pipeline.py [MODEL.onnx] [--frames 40 --width 1920 --height 1080] [--precision auto] [--json FILE]

A real node (``tridetr up --only triton --only detector``) detects in frames that this process publishes as a capture
would; this process reads the results as the gateway would. Between the frames the same model runs here with the same
provider, precision and threads: as the bare network on a prepared input, and as the graph that the node serves on the
same frame. So frames arrive at about a third of the model's rate, and other load on the machine slows all three.
Milliseconds.

tax = (result published - frame taken by the detector) / bare network. MODEL is a fused model or an RF-DETR export.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
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
    node,
    roles,
    summary,
    write_json,
)
from tridetr.shm.detections import DetectionReader, ResultStamp
from tridetr.shm.frames import ColorMatrix, ColorRange, FrameStamp, FrameWriter
from tridetr.shm.names import unlink_instance
from tridetr.triton.engine.choice import OPENVINO, choose, cpu_flags
from tridetr.triton.engine.session import Engine

CAMERA = "bench"
WARM_UP = 5


class Camera:
    """Capture and reader of one camera."""

    def __init__(self, instance: str, width: int, height: int) -> None:
        self._writer = FrameWriter(instance, CAMERA, width=width, height=height)
        self._reader = DetectionReader(instance, CAMERA, "gateway")
        shape = (height * 3 // 2, width)
        self.picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self._number = 0

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def detect(self, timeout_s: float = 10.0) -> tuple[ResultStamp, int, int] | None:
        """Publish a frame; return the stamp of its result, and the times when capture began and the result was read."""
        began_ns = time.monotonic_ns()
        slot = self._writer.begin()
        assert slot is not None
        slot.planes[:] = self.picture
        self._number += 1
        stamp = FrameStamp(
            self._number, time.monotonic_ns(), time.time_ns(), ColorRange.LIMITED, ColorMatrix.BT601
        )
        sequence = self._writer.publish(slot, stamp)
        wakeup = self._reader.wakeup
        assert wakeup
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            wakeup.wait(0.5)
            if (lease := self._reader.lease_newest()) is not None:
                with lease:
                    read_ns, result = time.monotonic_ns(), lease.stamp
                if result.frame_sequence == sequence:
                    return result, began_ns, read_ns
        return None


def milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - began) / 1e6


def measure(
    camera: Camera, bare: Callable[[], object], fused: Callable[[], object], frames: int
) -> dict[str, list[float]]:
    """Take turns in a changing order."""
    rows: dict[str, list[float]] = {}

    def add(**values: float) -> None:
        for name, value in values.items():
            rows.setdefault(name, []).append(value)

    def pipeline() -> None:
        found = camera.detect()
        if found is None:
            raise SystemExit("no result within 10 s")
        stamp, began_ns, read_ns = found
        add(
            capture=(stamp.capture_monotonic_ns - began_ns) / 1e6,
            frame_age_when_taken=(stamp.taken_ns - stamp.capture_monotonic_ns) / 1e6,
            taken_to_request=(stamp.infer_start_ns - stamp.taken_ns) / 1e6,
            request_to_answer=(stamp.infer_end_ns - stamp.infer_start_ns) / 1e6,
            answer_to_published=(stamp.published_ns - stamp.infer_end_ns) / 1e6,
            published_to_read=(read_ns - stamp.published_ns) / 1e6,
            taken_to_published=(stamp.published_ns - stamp.taken_ns) / 1e6,
            camera_to_reader=(read_ns - began_ns) / 1e6,
        )

    turns: list[Callable[[], None]] = [
        pipeline,
        lambda: add(bare_model=milliseconds(bare)),
        lambda: add(fused_model=milliseconds(fused)),
    ]
    for index in range(-WARM_UP, frames):
        if index == 0:
            rows.clear()
        for turn in turns[index % 3 :] + turns[: index % 3]:
            turn()
    return rows


def report(rows: dict[str, list[float]]) -> dict[str, Any]:
    """Summarise, with ratios of medians, of minima, and the median of the ratios of neighbouring runs."""

    def ratios(upper: str, lower: str) -> dict[str, float]:
        a, b = np.array(rows[upper]), np.array(rows[lower])
        return {
            "of_medians": round(float(np.median(a) / np.median(b)), 3),
            "of_minima": round(float(a.min() / b.min()), 3),
            "median_of_pairs": round(float(np.median(a / b)), 3),
        }

    return {
        "unit": "ms",
        "figures": {name: summary(values) for name, values in rows.items()},
        "ratios": {
            "tax: taken to published / bare model": ratios("taken_to_published", "bare_model"),
            "taken to published / fused model": ratios("taken_to_published", "fused_model"),
            "fused model / bare model": ratios("fused_model", "bare_model"),
        },
        "samples": {name: [round(value, 3) for value in values] for name, values in rows.items()},
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("model", type=Path, nargs="?", help="default: the bundled model")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    instance = f"bench{os.getpid()}"
    choice = choose(
        options.provider,
        options.precision,
        available=onnxruntime.get_available_providers(),
        flags=cpu_flags(),
        gpu=False,
        ours=True,
    )
    with tempfile.TemporaryDirectory(prefix="tridetr-bench-") as name:
        folder = Path(name)
        fused, bare = fused_model(options.model, folder)
        provider = "openvino" if choice.provider == OPENVINO else options.provider
        config = {
            "instance": instance,
            "cameras": {CAMERA: {"source": "synthetic"}},
            "model": {
                "file": str(fused),
                "provider": provider,
                "precision": choice.precision,
                "threads": options.threads,
            },
            "run_dir": str(folder / "run"),
            "state_dir": str(folder / "state"),
        }
        camera = Camera(instance, options.width, options.height)
        try:
            with node(config, folder, ("triton", "detector")) as process:
                engine = Engine(as_served(fused, choice, folder), choice, threads=options.threads)
                run_bare = bare_session(bare, choice, options.threads)
                frames = np.array(camera.picture[None])
                for _ in range(60):
                    if camera.detect(1.0) is not None:
                        break
                else:
                    raise SystemExit((folder / "log").read_text()[-3000:])
                rows = measure(camera, run_bare, lambda: engine.run(frames), options.frames)
                memory = {
                    role: round(found.memory_full_info().pss / 2**20)
                    for role, found in roles(process).items()
                }
        finally:
            camera.close()
            with contextlib.suppress(OSError):
                unlink_instance(instance, [CAMERA])
    result = {
        "benchmark": "pipeline",
        "machine": machine(),
        "model": options.model.name if options.model else "bundled",
        "engine": f"{choice.provider.removesuffix('ExecutionProvider')} {choice.precision}",
        "threads": options.threads,
        "frame": {"width": options.width, "height": options.height},
        **report(rows),
        "memory_mib": memory,
    }
    for row, figures in result["figures"].items():
        print(f"{row:24} {figures['p50']:9.3f} {figures['p95']:9.3f} {figures['min']:9.3f}")
    for row, figures in result["ratios"].items():
        print(f"{row:40} {figures}")
    write_json(options, result)


if __name__ == "__main__":
    main()
