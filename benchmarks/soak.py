"""Run a node for hours and measure what must not grow: memory, descriptors, segments, queues, latency.

    python benchmarks/soak.py --hours 0.5 [--cameras 2 --viewers 4 --fps 5] [--out FOLDER]

Starts ``tridetr up`` with synthetic cameras, a network camera (H.264) and an embedded broker, watches each camera over
WebSockets (the last viewer reads one byte a second), receives all events, and takes a sample every few seconds. Writes
``soak.json``, ``soak.png`` and ``soak.md``; exits with 1 if something grew or died, or an event arrived twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import psutil
import websockets
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from common import machine, role_of
from soak_camera import NetworkCamera
from soak_report import write_report
from soak_samples import Latency, anonymous_mib, queue_depths, sizes_of
from tridetr.ports import free_port
from tridetr.shm.names import list_instance


class Soak:
    """One run."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.instance = f"soak{os.getpid()}"
        self.port = free_port()
        self.cameras = [f"cam{number}" for number in range(options.cameras)]
        self.file = folder / "node.yaml"
        size = {"width": options.width, "height": options.height, "fps": options.fps}
        cameras = {
            name: {"source": "synthetic", "seed": seed, **size}
            for seed, name in enumerate(self.cameras)
        }
        self._network = NetworkCamera(options.width, options.height, round(options.fps))
        self.cameras.append("network")
        cameras["network"] = {"source": self._network.url}
        config = {
            "instance": self.instance,
            "cameras": cameras,
            "mqtt": {"host": "embedded", "port": 0},
            "gateway": {"host": "127.0.0.1", "port": self.port},
            "run_dir": str(folder / "run"),
            "state_dir": str(folder / "state"),
        }
        self.file.write_text(yaml.safe_dump(config))
        self.samples: list[dict[str, Any]] = []
        self.events: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()
        self.reconnects = 0
        self._latency = {name: Latency(self.instance, name) for name in self.cameras}

    async def run(self) -> dict[str, Any]:
        """Run the node for the given time; return its own summary."""
        line = [sys.executable, "-m", "tridetr", "up", "--config", str(self.file), "--json"]
        with (self.folder / "log").open("wb") as log, (self.folder / "summary").open("wb") as out:
            node = subprocess.Popen(line, stdout=out, stderr=log, stdin=subprocess.DEVNULL)  # noqa: ASYNC220
        tasks = []
        try:
            await self._whole(node)
            client = self._listen()
            tasks = [
                asyncio.create_task(self._view(self.cameras[n % len(self.cameras)], f"viewer{n}"))
                for n in range(self.options.viewers)
            ]
            tasks.append(asyncio.create_task(self._crawl(self.cameras[0])))
            began = time.monotonic()
            while time.monotonic() - began < self.options.hours * 3600:
                if node.poll() is not None:
                    raise SystemExit(f"the node ended: {(self.folder / 'log').read_text()[-3000:]}")
                with contextlib.suppress(psutil.Error):
                    self.samples.append(self._sample(node.pid, time.monotonic() - began))
                await asyncio.sleep(self.options.every)
            client.loop_stop()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            node.send_signal(signal.SIGINT)
            node.wait(60)
            self._network.close()
            shutil.copy(self.folder / "log", self.options.out / "node.log")
        return dict(json.loads((self.folder / "summary").read_text()))

    async def _whole(self, node: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 180
        while not all(latency.take()[0] for latency in self._latency.values()):
            if node.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"no start: {(self.folder / 'log').read_text()[-3000:]}")
            await asyncio.sleep(0.5)

    def _listen(self) -> mqtt.Client:
        broker = json.loads((self.folder / "run" / "broker.json").read_text())
        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        client.on_connect = lambda c, *_: c.subscribe("tridetr/+/+/events", qos=1)
        client.on_message = lambda _c, _d, m: self.events.update(
            [json.loads(m.payload)["event_id"]]
        )
        client.connect(broker["host"], broker["port"])
        client.loop_start()
        return client

    async def _view(self, camera: str, name: str) -> None:
        url = f"ws://127.0.0.1:{self.port}/ws/{camera}"
        while True:
            with contextlib.suppress(OSError, websockets.WebSocketException):
                async with websockets.connect(url, max_size=None) as socket_:
                    async for message in socket_:
                        assert isinstance(message, bytes)
                        size = int.from_bytes(message[:4], "little")
                        if json.loads(message[4 : 4 + size])["type"] == "frame":
                            self.frames[name] += 1
            self.reconnects += 1
            await asyncio.sleep(1)

    async def _crawl(self, camera: str) -> None:
        """Watch like the slowest viewer: read one byte a second."""
        request = (
            f"GET /ws/{camera} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1)
                writer.write(request.encode())
                while await reader.read(1):  # noqa: ASYNC110
                    await asyncio.sleep(1)
                writer.close()
            await asyncio.sleep(5)

    def _sample(self, pid: int, at_s: float) -> dict[str, Any]:
        processes = {}
        for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
            with contextlib.suppress(psutil.Error):
                if role := role_of(process):
                    processes[role] = {
                        "rss_mib": process.memory_info().rss / 2**20,
                        "private_mib": anonymous_mib(process.pid),
                        "fds": process.num_fds(),
                        "threads": process.num_threads(),
                    }
        segments = sizes_of(list_instance(self.instance))
        depths = queue_depths(self.instance, self.cameras)
        ages: list[float] = []
        totals: list[float] = []
        for latency in self._latency.values():
            for kept, new in zip((ages, totals), latency.take(), strict=True):
                kept += new
        return {
            "at_s": round(at_s, 1),
            "processes": processes,
            "segments": len(segments),
            "segment_mib": sum(segments) / 2**20,
            "queues": len(depths),
            "queued": sum(depths),
            **self._metrics(
                outbox="tridetr_outbox_depth",
                dropped="tridetr_outbox_dropped_total",
                server_restarts="tridetr_triton_restarts_total",
            ),
            "age_ms": sorted(ages)[len(ages) // 2] if ages else None,
            "total_ms": sorted(totals)[len(totals) // 2] if totals else None,
            "results": len(totals),
            "events": sum(self.events.values()),
            "frames_to_viewers": sum(self.frames.values()),
            "load": os.getloadavg()[0],
        }

    def _metrics(self, **names: str) -> dict[str, float | None]:
        """Return each metric, summed over its labels; None if the gateway does not answer."""
        try:
            url = f"http://127.0.0.1:{self.port}/metrics"
            with urllib.request.urlopen(url, timeout=20) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return dict.fromkeys(names)
        found = {
            key: [float(line.split()[-1]) for line in lines if re.match(rf"{name}[ {{]", line)]
            for key, name in names.items()
        }
        return {key: sum(values) for key, values in found.items()}


def main() -> None:
    """Run the node and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=0.5)
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--viewers", type=int, default=4)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--fps", type=float, default=5)
    parser.add_argument("--every", type=float, default=5, help="seconds between samples")
    parser.add_argument("--out", type=Path, default=Path("build/soak"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tridetr-soak-") as folder:
        soak = Soak(options, Path(folder))
        summary = asyncio.run(soak.run())
        leftovers = [path.name for path in list_instance(soak.instance)]
        leftovers += ["a queue" for _ in queue_depths(soak.instance, soak.cameras)]
    faults = write_report(
        options.out,
        soak.samples,
        {
            "options": {key: value for key, value in vars(options).items() if key != "out"},
            "node": summary,
            "events": sum(soak.events.values()),
            "doubled": [event for event, times in soak.events.items() if times > 1],
            "viewer_reconnects": soak.reconnects,
            "leftovers": leftovers,
            "cpus": os.cpu_count(),
            "machine": machine(),
        },
    )
    sys.exit("\n".join(faults) if faults else 0)


if __name__ == "__main__":
    main()
