"""A node compared with what users would run instead, on the same clip and the same model (`make bench-peers`).

    python benchmarks/peers.py MODEL.onnx [--cameras 1 4 8 --seconds 15 --rounds 2] [--footage FILE] [--python PYTHON]
                               [--original FOLDER] [--json FILE]

MODEL is an RF-DETR export, such as a full-size Nano. The clip is an empty room in 1080p H.264 with sensor noise of 3 of
255: the first seconds of ``--footage``, or a drawn hall. It plays in real time, in a loop, from a file for each
camera. All publish to one broker, which is not counted. Taken in turns:

- `node, calm`: ``tridetr up`` with its default settings; `node, alarmed`: every frame to the model;
- `plain script`: peers/plain.py, one process per camera, the same graph and session as the node's;
- `supervision`: peers/supervision_loop.py; `inference`: peers/inference_pipeline.py. They run with ``--python``, of an
  environment that has ``supervision inference paho-mqtt>=2`` and this one's ``onnxruntime-openvino``;
- `original`: detr-mmap, built with peers/feed.rs among capture's examples, in FOLDER (``target/release``). It supports
  one camera, with MJPEG only.

CPU (per cent of one core) and memory (MiB, proportional share) include all processes. Latency is measured from when a
frame is due until its result is published.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import onnxruntime
import psutil

from clips import FPS, HEIGHT, WIDTH, write_clips
from common import argument_parser, as_served, fused_model, machine, write_json
from scaling import running
from tridetr.ports import free_port
from tridetr.shm.detections import DetectionReader
from tridetr.triton.engine.choice import choose, cpu_flags
from tridetr.triton.engine.session import provider_options
from usage import Times, measured, middle

HERE = Path(__file__).parent / "peers"


class Peer:
    """Processes that print two times for each decision."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[subprocess.Popen[bytes]] = []
        self._read: list[int] = []

    def start(self, *command: str, **environment: str) -> None:
        """Start one process."""
        name = self._folder / f"peer{len(self._children)}"
        with name.with_suffix(".out").open("wb") as out, name.with_suffix(".log").open("wb") as log:
            child = subprocess.Popen(
                command, stdout=out, stderr=log, env={**os.environ, **environment}, cwd=HERE
            )
        self._children.append(child)
        self._read.append(0)

    @property
    def roots(self) -> list[psutil.Process]:
        return [psutil.Process(child.pid) for child in self._children]

    def take(self) -> Times:
        """Return the times since the last call."""
        found = []
        for number in range(len(self._children)):
            with (self._folder / f"peer{number}.out").open("rb") as out:
                out.seek(self._read[number])
                whole = out.read().rpartition(b"\n")[0]
            self._read[number] += len(whole) + bool(whole)
            for line in whole.splitlines():
                due, done = line.split()
                found.append((float(due), float(done)))
        return found

    def stop(self) -> str:
        """Stop all of them; return the last line that the first one logged."""
        for child in self._children:
            child.send_signal(signal.SIGKILL)
            child.wait()
        return (self._folder / "peer0.log").read_text(errors="replace")[-1500:]


class Node:
    """The results of a running node."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._readers = {
            name: DetectionReader(config["instance"], name, None) for name in config["cameras"]
        }
        self._after = dict.fromkeys(self._readers, 0)

    def take(self) -> Times:
        """Return the times of inferences since the last call; call it often, because the ring is short."""
        found = []
        for name, reader in self._readers.items():
            while (lease := reader.lease_next(self._after[name])) is not None:
                with lease:
                    self._after[name] = lease.sequence
                    stamp = lease.stamp
                    if not stamp.repeated:
                        found.append((stamp.capture_monotonic_ns / 1e9, stamp.published_ns / 1e9))
        return found

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()


class Bench:
    """The settings that all runs share."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._folder = folder
        fused, bare = fused_model(options.model, folder)
        choice = choose(
            "auto", "auto", available=onnxruntime.get_available_providers(), flags=cpu_flags(),
            gpu=False, ours=True,
        )  # fmt: skip
        self.engine = f"{choice.provider.removesuffix('ExecutionProvider')} {choice.precision}"
        self._fused, self._bare = fused, bare
        self._settings = folder / "settings.json"
        self._settings.write_text(
            json.dumps(
                {
                    "fused": str(as_served(fused, choice, folder)),
                    "bare": str(bare),
                    "provider": choice.provider,
                    "options": provider_options(choice, 0, None),
                }
            )
        )
        self._port = free_port()

    @contextlib.contextmanager
    def broker(self) -> Iterator[None]:
        """Run mosquitto."""
        config = self._folder / "mosquitto.conf"
        config.write_text(f"listener {self._port} 127.0.0.1\nallow_anonymous true\n")
        child = subprocess.Popen(["mosquitto", "-c", str(config)], stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            child.terminate()
            child.wait()

    @cached_property
    def _clips(self) -> tuple[Path, Path]:
        return write_clips(self._folder, self._options.footage)

    def node_sections(self) -> dict[str, Any]:
        """Return the sections of a node's configuration with this model and broker."""
        return {
            "model": {"file": str(self._fused)},
            "mqtt": {"host": "127.0.0.1", "port": self._port, "discovery_prefix": None},
        }

    def node(self, cameras: int, fps: float | None = None) -> dict[str, Any]:
        """Measure a node, with its default settings or with a given rate of frames to the model."""
        sections = self.node_sections()
        if fps is not None:
            sections["detect"] = {"motion_gate_s": 0}
        clip, _ = self._clips
        with running(clip, cameras, standby_fps=fps or 3.0, **sections) as (process, config, _):
            node = Node(config)
            try:
                return measured([process], cameras, self._options.seconds, node.take)
            finally:
                node.close()

    def script(self, name: str, clip: Path) -> tuple[str, ...]:
        """Return the command of a script, without its cameras."""
        python = sys.executable if name == "plain.py" else str(self._options.python)
        return python, name, str(clip), str(FPS), str(self._settings), str(self._port)

    def peer(self, script: str, cameras: int, *last: str) -> dict[str, Any]:
        """Measure a script."""
        words = self.script(script, self._clips[0])
        names = [f"cam{number}" for number in range(cameras)]
        peer = Peer(self._folder)
        if script == "inference_pipeline.py":
            peer.start(*words, *names)
        else:
            for name in names:
                peer.start(*words, name, *last)
        return self._measured(peer, cameras, peer.take)

    def original(self) -> dict[str, Any]:
        """Measure detr-mmap with one camera; its detection buffer has the number of frames that it decided on."""
        built = self._options.original
        buffer, count = Path("/dev/shm/bridge_detection_buffer"), 0

        def take() -> Times:
            nonlocal count
            if not buffer.exists():
                return []
            with buffer.open("rb") as file:
                before, count = count, int.from_bytes(file.read(8), "little")
            return [(0.0, 0.0)] * (count - before)

        peer = Peer(self._folder)
        side = onnxruntime.InferenceSession(str(self._bare)).get_inputs()[0].shape[2]
        environment = {
            "MODEL_PATH": str(self._bare), "INPUT_WIDTH": str(side), "INPUT_HEIGHT": str(side),
            "MQTT_BROKER_HOST": "127.0.0.1", "MQTT_BROKER_PORT": str(self._port), "RUST_LOG": "warn",
        }  # fmt: skip
        peer.start(
            str(built / "examples" / "feed"), str(self._clips[1]), str(WIDTH), str(HEIGHT), str(FPS)
        )
        peer.start(str(built / "inference"), **environment)
        peer.start(str(built / "controller"), **environment)
        try:
            found = self._measured(peer, 1, take)
        finally:
            for left in Path("/dev/shm").glob("bridge_*"):
                left.unlink()
        found.pop("latency_ms", None)
        return found

    def _measured(self, peer: Peer, cameras: int, take: Callable[[], Times]) -> dict[str, Any]:
        try:
            return measured(peer.roots, cameras, self._options.seconds, take)
        except RuntimeError as error:
            return {"failed": f"{error}: {peer.stop()}"}
        finally:
            peer.stop()


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--cameras", type=int, nargs="*", default=[1, 4, 8])
    parser.add_argument("--seconds", type=float, default=15, help="duration of each run")
    parser.add_argument("--rounds", type=int, default=2, help="rounds over all; medians are kept")
    parser.add_argument(
        "--every",
        type=int,
        default=10,
        help="also measure with every n-th frame to the model; 0 = do not",
    )
    parser.add_argument("--footage", type=Path, help="a video that begins with an empty room")
    parser.add_argument(
        "--python", type=Path, help="Python of an environment with the other projects"
    )
    parser.add_argument(
        "--others-up-to", type=int, default=8, help="most cameras to run the other projects with"
    )
    parser.add_argument("--original", type=Path, help="folder target/release of detr-mmap")
    options = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="tridetr-bench-") as name:
        bench = Bench(options, Path(name))
        with bench.broker():
            for cameras in options.cameras:
                runs: dict[str, Callable[[], dict[str, Any]]] = {
                    "plain script": partial(bench.peer, "plain.py", cameras),
                    "node, calm": partial(bench.node, cameras),
                    "node, alarmed": partial(bench.node, cameras, 2.0 * FPS),
                }
                if options.every and cameras == 1:
                    every = options.every
                    runs["plain script, fewer looks"] = partial(
                        bench.peer, "plain.py", 1, str(every)
                    )
                    runs["node, fewer looks"] = partial(bench.node, 1, FPS / every)
                if options.python and cameras <= options.others_up_to:
                    runs["supervision"] = partial(bench.peer, "supervision_loop.py", cameras)
                    runs["inference"] = partial(bench.peer, "inference_pipeline.py", cameras)
                if options.original and cameras == 1:
                    runs["original (MJPEG)"] = bench.original
                found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in runs}
                for _ in range(options.rounds):
                    for kind, run in runs.items():
                        found[kind].append(run())
                        print(cameras, kind, json.dumps(found[kind][-1]), flush=True)
                figures[str(cameras)] = {kind: middle(rows) for kind, rows in found.items()}
                write(options, bench.engine, figures)


def write(options: argparse.Namespace, engine: str, figures: dict[str, Any]) -> None:
    """Write the figures measured so far."""
    result = {
        "benchmark": "peers",
        "machine": machine(),
        "model": options.model.name,
        "engine": engine,
        "frame": {"width": WIDTH, "height": HEIGHT, "fps": FPS},
        "cameras": figures,
    }
    write_json(options, result)


if __name__ == "__main__":
    main()
