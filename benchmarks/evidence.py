"""CPU of pictures and clips while nothing happens: a node with `evidence` and without it, in turns.

    python benchmarks/evidence.py [--rounds 5 --seconds 20 --noise 4] [--json FILE]

Three 1080p cameras, one after the other, each in standby (3 frames a second): `packets` sends H.264, so that the
recorder only reads results; `raw` sends noisy pictures without packets, from which the recorder encodes its pre-roll;
`restless` is the same with the motion gate off, as if something moved all the time. The CPU is in per cent of one core:
of the whole node and, with evidence, of its recorder.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np

from clips import join
from common import argument_parser, machine, roles, wait_for, write_json
from decode import write_clip
from scaling import H264, cpu_of, newest, rates, running
from tridetr.shm.detections import DetectionReader

SIZE = (1920, 1080)
RAW_FPS, RAW_FRAMES = 10, 20
SETTLE_S = 12.0  # until the motion gate has learnt the noise, and the pre-roll is full


def write_noise(path: Path, like: Path, noise: float) -> None:
    """Write the first picture of a clip with Gaussian noise that differs in each frame, without compression."""
    dice = np.random.default_rng(0)
    with av.open(str(like)) as source:
        scene = next(source.decode(video=0)).to_ndarray(format="yuv420p").astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=RAW_FPS)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for _ in range(RAW_FRAMES):
            noisy = scene + dice.normal(0, noise, scene.shape).astype(np.float32)
            planes = np.clip(noisy, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())


def cpu(clip: Path, seconds: float, **sections: Any) -> dict[str, float]:
    """Return the CPU of each kind of process of an idle node."""
    with running(clip, 1, **sections) as (process, config, log):
        with DetectionReader(config["instance"], "cam0", None) as reader:
            wait_for(lambda: newest([reader]), process, log)
            time.sleep(SETTLE_S)
            parts = roles(process)
            before, at = cpu_of(parts), time.monotonic()
            time.sleep(seconds)
            return rates(before, cpu_of(parts), time.monotonic() - at)


def in_turns(clip: Path, rounds: int, seconds: float, **sections: Any) -> dict[str, Any]:
    """Measure a node with and without evidence alternately, several times."""
    nodes: dict[str, list[float]] = {"on": [], "off": []}
    recorder = []
    for number in range(rounds):
        for turn in ("on", "off") if number % 2 else ("off", "on"):
            evidence: dict[str, Any] = {"evidence": {}} if turn == "on" else {}
            found = cpu(clip, seconds, **sections, **evidence)
            nodes[turn].append(round(sum(found.values()), 1))
            if turn == "on":
                recorder.append(found["record"])
    return {
        "node_percent": nodes,
        "node_percent_median": {turn: median(values) for turn, values in nodes.items()},
        "difference_percent": round(median(nodes["on"]) - median(nodes["off"]), 1),
        "recorder_percent": recorder,
        "recorder_percent_median": median(recorder),
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--cameras", nargs="+", default=["packets", "raw", "restless"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20, help="duration of each measurement")
    parser.add_argument(
        "--noise", type=float, default=4, help="standard deviation of the noise, of 255"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        short, packets, raw = (Path(folder) / name for name in ("short.mp4", "p.mp4", "raw.avi"))
        write_clip(short, *H264, SIZE, 0)
        join([short] * 60, packets)
        write_noise(raw, short, options.noise)
        result = {
            "benchmark": "evidence",
            "machine": machine(),
            "cameras": {
                name: in_turns(clip, options.rounds, options.seconds, **sections)
                for name, clip, sections in (
                    ("packets", packets, {}),
                    ("raw", raw, {}),
                    ("restless", raw, {"detect": {"motion_gate_s": 0}}),
                )
                if name in options.cameras
            },
        }
    print(json.dumps(result["cameras"], indent=2))
    write_json(options, result)


if __name__ == "__main__":
    main()
