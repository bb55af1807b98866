"""Measure the time from a node's command to its first result, and its parts.

    python benchmarks/start.py [--model FILE ...] [--rounds 5] [--cameras 1] [--log] [--json FILE]

Runs ``tridetr up`` with default settings, an embedded broker and one 1080p30 H.264 file, with the bundled model and
each ``--model`` in turn. Files are in the page cache, and the graph for the provider is already written, as at every
start of a model except the first. ``--log`` prints the node's log with times. Seconds since the command:

- `broker`, `server ready`, `first frame`: when each of them is available;
- `first result`: when the detections of the first frame are in the ring, where controller and viewers read them;
- `everything`: when controller and gateway are connected, too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from common import answers, argument_parser, fused_model, machine, roles, summary, write_json
from decode import write_clip
from scaling import H264, configuration, cpu_of, newest
from tridetr.shm.detections import DetectionReader
from tridetr.shm.frames import FrameReader
from tridetr.shm.names import unlink_instance

LIMIT_S = 180.0


def one_start(clip: Path, cameras: int, log: bool, sections: dict[str, Any]) -> dict[str, float]:
    """Start a node, wait until all of it works, stop it; return the times."""
    instance = f"start{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="tridetr-bench-") as name:
        folder = Path(name)
        config = configuration(folder, clip, cameras, instance, 3.0, **sections)
        file = folder / "node.yaml"
        file.write_text(yaml.safe_dump(config))
        results = [DetectionReader(instance, camera, None) for camera in config["cameras"]]
        frames = [FrameReader(instance, camera, None) for camera in config["cameras"]]
        run, port = folder / "run", config["gateway"]["port"]
        seen: dict[str, float] = {}
        wanted: dict[str, Callable[[], bool]] = {
            "broker": lambda: (run / "broker.json").exists(),
            "server ready": lambda: (run / "triton.json").exists(),
            "first frame": lambda: has_frame(frames[0]),
            "first result": lambda: newest(results[:1]) > 0,
            "all cameras": lambda: all(newest([reader]) for reader in results),
            "gateway": lambda: answers(port),
        }
        command = [sys.executable, "-m", "tridetr", "up", "--config", str(file), "--json"]
        began = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        lines: list[str] = []

        def read() -> None:
            assert child.stderr is not None
            for line in child.stderr:
                lines.append(f"{time.monotonic() - began:6.2f} {line.decode().rstrip()}")

        reader = threading.Thread(target=read)
        reader.start()
        try:
            while not wanted.keys() <= seen.keys():
                for what, there in wanted.items():
                    if what not in seen and there():
                        seen[what] = round(time.monotonic() - began, 3)
                        if what == "first result":
                            used = cpu_of(roles(psutil.Process(child.pid)))
                            seen |= {f"CPU {role}": round(spent, 2) for role, spent in used.items()}
                if child.poll() is not None or time.monotonic() > began + LIMIT_S:
                    raise SystemExit("\n".join(lines[-30:]))
                time.sleep(0.01)
        finally:
            child.send_signal(signal.SIGINT)
            child.wait(60)
            reader.join()
            for result_reader in results:
                result_reader.close()
            for frame_reader in frames:
                frame_reader.close()
            unlink_instance(instance, list(config["cameras"]))
        if log:
            print("\n".join(lines))
    return seen


def has_frame(frames: FrameReader) -> bool:
    """Return whether there is a frame in the ring."""
    lease = frames.lease_newest()
    if lease is not None:
        lease.release()
    return lease is not None


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", type=Path, nargs="*", default=[], help="exports or fused models")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; medians are kept")
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--log", action="store_true", help="print the node's log with times")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        write_clip(clip, *H264, (1920, 1080), 6)
        models: dict[str, dict[str, Any]] = {"bundled": {}}
        for model in options.model:
            (folder / model.stem).mkdir()
            fused, _ = fused_model(model, folder / model.stem)
            models[model.name] = {"model": {"file": str(fused)}}
        rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in models}
        for number in range(options.rounds + 1):
            for kind, sections in models.items():
                found = one_start(clip, options.cameras, options.log, sections)
                print(kind, json.dumps(found), flush=True)
                if number:  # the first one fills the caches
                    rounds[kind].append(found)
    result = {
        "benchmark": "start",
        "machine": machine(),
        "cameras": options.cameras,
        "starts": {
            kind: {what: summary([row[what] for row in rows], 2) for what in rows[0]}
            for kind, rows in rounds.items()
        },
    }
    print(json.dumps(result["starts"], indent=2))
    write_json(options, result)


if __name__ == "__main__":
    main()
