"""Measure a calm camera over minutes of real footage against a plain script, and what the motion gate misses.

    python benchmarks/calm.py MODEL.onnx FOOTAGE.mp4 TRUTH.json --out FOLDER [--parts 5 --calm 100] [--json FILE]

MODEL is an RF-DETR export, such as a full-size Nano; FOOTAGE is a recording of a fixed camera that begins with an empty
scene; TRUTH has a detector's results on it: ``{"detections": [[[x1, y1, x2, y2, score], …] for each frame]}``. For each
part, a clip is made of them, in 1080p H.264 at 30 frames a second with sensor noise of 3 of 255: the empty scene for
about ``--calm`` seconds, with one of the visits in it. For each part, in turn:

- the node with its default settings plays the clip once; its CPU is measured over windows of 5 s;
- the plain script (peers/plain.py: the same graph and session) runs for a quarter of the time.

Each result of the node, inferred or repeated, belongs to a frame that would be inferred without the motion gate. So one
run shows both: a visit is noticed at the first inferred frame with a person, and would have been noticed at the first
one with a result. The weights can be random: what the model detects does not matter, and no camera is alarmed. Parts
that are already in FOLDER are not measured again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

from clips import FPS, HEIGHT, WIDTH, Noise, add_h264, join
from common import argument_parser, machine, roles, write_json
from peers import Bench, Peer
from scaling import cpu_of, rates, running
from tridetr.shm.detections import DetectionReader
from usage import Usage

WINDOW_S = 5.0
BEFORE_S, AFTER_S = 2, 2  # footage around a visit
LEAST_FRAMES = 6  # shortest visit; shorter ones are false detections
LEARNT_S = 12.0
SPEED = 10  # frames a second of the footage


def visits_in(truth: Path) -> list[tuple[int, int]]:
    """Return the first and the last frame of each visit."""
    seen = [bool(found) for found in json.loads(truth.read_text())["detections"]]
    gaps = [-LEAST_FRAMES, *(number for number, there in enumerate(seen) if there)]
    runs: list[list[int]] = []
    for before, number in pairwise(gaps):
        if number - before > LEAST_FRAMES:
            runs.append([number, number])
        runs[-1][1] = number
    return [(first, last) for first, last in runs if last - first >= LEAST_FRAMES]


class Clips:
    """Creates the clips of the parts: encodes the footage once and joins its packets."""

    def __init__(self, footage: Path, folder: Path) -> None:
        self._folder = folder
        with av.open(str(footage)) as container:
            self._frames = list(container.decode(video=0))
        self._noise = Noise()
        there_and_back = [*range(40), *range(38, 0, -1)]
        self._empty = self._encode("empty", there_and_back)
        self.empty_s = len(there_and_back) / SPEED

    def _encode(self, name: str, numbers: list[int]) -> Path:
        made = self._folder / f"{name}.mp4"
        with av.open(str(made), "w") as container:
            stream = add_h264(container)
            for planes in self._noisy(numbers):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
            container.mux(stream.encode())
        return made

    def _noisy(self, numbers: list[int]) -> Iterator[np.ndarray]:
        for number in numbers:
            planes = self._frames[number].reformat(WIDTH, HEIGHT, "yuv420p").to_ndarray()
            for _ in range(FPS // SPEED):
                yield self._noise(planes)

    def part(self, number: int, visit: tuple[int, int], calm_s: float) -> tuple[Path, float]:
        """Return a clip of a part, and when its visit begins in it [s]."""
        first, last = visit
        begin = max(0, first - BEFORE_S * SPEED)
        end = min(len(self._frames) - 1, last + AFTER_S * SPEED)
        visitor = self._encode(f"visit{number}", list(range(begin, end + 1)))
        loops = max(2, round(calm_s / self.empty_s))
        before = max(2, loops * (number + 3) // 8)  # at another time in each part
        made = self._folder / f"part{number}.mp4"
        join([self._empty] * before + [visitor] + [self._empty] * (loops - before), made)
        return made, before * self.empty_s + (first - begin) / SPEED


def node_part(bench: Bench, clip: Path, length_s: float, visit: tuple[float, float]) -> Any:
    """Play a clip to the node once; return its CPU by windows, and when the visit was noticed."""
    results: dict[int, bool] = {}  # frame of the clip: was it inferred?
    windows: list[dict[str, float]] = []
    sections = bench.node_sections()
    sections["alarm"] = {"min_score": 0.9999}
    with running(clip, 1, standby_fps=3.0, **sections) as (process, config, log):
        reader, after = DetectionReader(config["instance"], "cam0", None), 0
        deadline = time.monotonic() + 120
        before: dict[str, float] = {}
        at = 0.0
        while max(results, default=0) < (length_s - 1.5) * FPS:
            while (lease := reader.lease_next(after)) is not None:
                with lease:
                    after = lease.sequence
                    results[lease.stamp.frame_number] = not lease.stamp.repeated
            now = time.monotonic()
            if not process.is_running() or now > deadline + length_s:
                raise SystemExit(log.read_text()[-3000:])
            if max(results, default=0) > LEARNT_S * FPS and now - at >= WINDOW_S:
                used = cpu_of(roles(process))
                used.pop("broker", None)
                if before:
                    windows.append(rates(before, used, now - at))
                before, at = used, now
            time.sleep(0.05)
        reader.close()
        memory: float = Usage([process]).figures()["memory_mib"]
    first, last = (round(moment * FPS) for moment in visit)
    during = sorted(number for number in results if first <= number <= last)
    inferred = [number for number in during if results[number]]
    calm = [number for number in results if number > LEARNT_S * FPS and not first <= number <= last]
    return {
        "cpu_percent": [round(sum(window.values()), 1) for window in windows],
        "cpu_percent_by_role": {
            role: round(float(np.median([window.get(role, 0.0) for window in windows])), 2)
            for role in windows[0]
        },
        "memory_mib": memory,
        "visit_s": round(last / FPS - first / FPS, 1),
        "noticed_s": round((inferred[0] - first) / FPS, 2) if inferred else None,
        "without_gate_s": round((during[0] - first) / FPS, 2) if during else None,
        "calm_results": len(calm),
        "calm_inferences": sum(results[number] for number in calm),
    }


def plain_part(bench: Bench, clip: Path, seconds: float, folder: Path) -> Any:
    """Run the plain script for a while; return its CPU."""
    peer = Peer(folder)
    peer.start(*bench.script("plain.py", clip), "cam0")
    try:
        while not peer.take():
            time.sleep(0.1)
        time.sleep(3)
        windows, looks = [], 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            usage = Usage(peer.roots)
            peer.take()
            time.sleep(WINDOW_S)
            figures = usage.figures()
            windows.append(figures["cpu_percent"])
            looks += len(peer.take())
        return {
            "cpu_percent": windows,
            "memory_mib": figures["memory_mib"],
            "looks_per_second": round(looks / len(windows) / WINDOW_S, 2),
        }
    finally:
        peer.stop()


def summed_up(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians over all windows of all parts, and the missed visits."""
    node = [window for part in parts for window in part["node"]["cpu_percent"]]
    plain = [window for part in parts for window in part["plain"]["cpu_percent"]]
    delays = [
        round(part["node"]["noticed_s"] - part["node"]["without_gate_s"], 2)
        for part in parts
        if part["node"]["noticed_s"] is not None
    ]
    kinds = parts[0]["node"]["cpu_percent_by_role"]
    return {
        "minutes": round(len(node) * WINDOW_S / 60, 1),
        "node_cpu_percent": round(float(np.median(node)), 1),
        "node_cpu_percent_mean": round(float(np.mean(node)), 1),
        "plain_cpu_percent": round(float(np.median(plain)), 1),
        "ratio": round(float(np.median(node) / np.median(plain)), 3),
        "ratio_of_means": round(float(np.mean(node) / np.mean(plain)), 3),
        "by_role": {
            role: round(
                float(np.median([p["node"]["cpu_percent_by_role"].get(role, 0) for p in parts])), 2
            )
            for role in kinds
        },
        "calm_inferences_per_second": round(
            3.0
            * sum(part["node"]["calm_inferences"] for part in parts)
            / max(1, sum(part["node"]["calm_results"] for part in parts)),
            2,
        ),
        "plain_looks_per_second": round(
            float(np.median([part["plain"]["looks_per_second"] for part in parts])), 2
        ),
        "visits": len(parts),
        "visits_missed": sum(part["node"]["noticed_s"] is None for part in parts),
        "latest_delay_s": max(delays, default=None),
        "memory_mib": [parts[-1]["node"]["memory_mib"], parts[-1]["plain"]["memory_mib"]],
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("footage", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for clips and measurements")
    parser.add_argument("--parts", type=int, default=5, help="number of parts, each with one visit")
    parser.add_argument(
        "--calm", type=float, default=100, help="seconds without a person in a part"
    )
    parser.add_argument(
        "--only-clips", action="store_true", help="create the clips without measuring"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    plan = options.out / "plan.json"
    if not plan.exists():
        print("making the clips", flush=True)
        clips = Clips(options.footage, options.out)
        found = []
        visits = visits_in(options.truth)
        for number in range(options.parts):
            visit = visits[number % len(visits)]
            clip, begins_s = clips.part(number, visit, options.calm)
            with av.open(str(clip)) as container:
                length_s = container.streams.video[0].frames / FPS
            ends_s = begins_s + (visit[1] - visit[0]) / SPEED
            found.append([clip.name, length_s, begins_s, ends_s])
            print(found[-1], flush=True)
        plan.write_text(json.dumps(found))
    if options.only_clips:
        return
    bench = Bench(options, options.out)
    parts = []
    with bench.broker():
        for number, (name, length_s, begins_s, ends_s) in enumerate(json.loads(plan.read_text())):
            kept = options.out / f"part{number}.json"
            if not kept.exists():
                clip = options.out / name
                part = {
                    "node": node_part(bench, clip, length_s, (begins_s, ends_s)),
                    "plain": plain_part(bench, clip, length_s / 4, options.out),
                }
                kept.write_text(json.dumps(part))
            parts.append(json.loads(kept.read_text()))
            print(number, json.dumps(summed_up(parts)), flush=True)
    result = {
        "benchmark": "calm",
        "machine": machine(),
        "model": options.model.name,
        "engine": bench.engine,
        "calm": summed_up(parts),
    }
    write_json(options, result)


if __name__ == "__main__":
    main()
