"""Measure whole nodes with live cameras: results a second, load of the GPU, contexts and processes.

    python benchmarks/gpu/live.py [MODEL.onnx] [--cameras 1 4 8 --seconds 12] [--json FILE]

Each node has this number of 1080p30 H.264 cameras over HTTP, decoded once on the CPU and once on the GPU (`decode:
gpu`).
"""

from __future__ import annotations

import http.server
import itertools
import json
import os
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from rig import FULL_HD, need_gpu, report

from common import argument_parser, fused_model, roles
from decode import CLIP_FRAMES, write_clip
from tridetr.ports import free_port

START_S = 4.0  # start of the run, with few inferences
_H264 = {"preset": "ultrafast", "tune": "zerolatency", "bf": "0", "g": "30"}


class Camera(http.server.BaseHTTPRequestHandler):
    """Sends an MPEG-TS file in real time, in a loop."""

    data = b""

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        """Answer with the stream."""
        self.send_response(200)
        self.send_header("Content-Type", "video/mp2t")
        self.end_headers()
        step = 188 * 40
        began, rate = time.monotonic(), len(self.data) * 30 / CLIP_FRAMES
        try:
            for sent in itertools.count():
                at = sent * step % len(self.data)
                self.wfile.write(self.data[at : at + step])
                time.sleep(max(0.0, began + sent * step / rate - time.monotonic()))
        except OSError:
            return


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """One thread for each camera."""

    daemon_threads = True


def smi(*words: str) -> list[str]:
    """Return the lines of nvidia-smi."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *words, "--format=csv,noheader"], capture_output=True, text=True
        )
    except FileNotFoundError:
        return ["nvidia-smi is not installed"]
    return done.stdout.strip().splitlines()


def run(model: Path, url: str, count: int, decode: str, seconds: float) -> dict[str, Any]:
    """Run one node and return its measurements."""
    with tempfile.TemporaryDirectory(prefix="tridetr-live-") as name:
        folder = Path(name)
        config = {
            "instance": f"live{os.getpid()}",
            "device": "cuda",
            "model": {"file": str(model), "provider": "cuda"},
            "cameras": {
                f"c{number}": {
                    "source": url,
                    "decode": decode,
                    "width": FULL_HD[0],
                    "height": FULL_HD[1],
                }
                for number in range(count)
            },
            "mqtt": {"host": "embedded", "port": 0},
            "gateway": {"host": "127.0.0.1", "port": free_port("127.0.0.1")},
            "sentry": {"standby_fps": 60},
            "run_dir": f"{folder}/run",
            "state_dir": f"{folder}/state",
        }
        file = folder / "tridetr.yaml"
        file.write_text(json.dumps(config))
        line = [sys.executable, "-m", "tridetr", "up", "--config", str(file), "--json"]
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            node = subprocess.Popen([*line, "--duration", str(seconds)], stdout=out, stderr=err)
            time.sleep(seconds * 0.7)
            busy = smi("--query-gpu=utilization.gpu,utilization.decoder,memory.used")
            contexts = smi("--query-compute-apps=pid,used_memory")
            processes = sorted(roles(psutil.Process(node.pid)))
            node.wait(seconds + 90)
        log = (folder / "err").read_text().splitlines()
        warnings = [text[:200] for text in log if " WARNING " in text or " ERROR " in text]
        text = (folder / "out").read_text()
        if not text:
            return {"failed": log[-5:]}
        summary = json.loads(text)
    rows = summary["cameras"].values()
    return {
        "results_per_second": round(
            sum(row["frames_inferred"] for row in rows) / (seconds - START_S), 1
        ),
        "total_ms": [row.get("total_ms") for row in rows],
        "infer_ms": [row.get("infer_ms") for row in rows],
        "gpu_busy_decoder_busy_memory": busy,
        "contexts": contexts,
        "processes": processes,
        "restarts": summary["restarts"],
        "warnings": warnings[:10],
    }


def main() -> None:
    made = argument_parser(__doc__)
    made.add_argument("model", type=Path, nargs="?", help="default: the bundled model")
    made.add_argument("--cameras", type=int, nargs="+", default=[1, 4, 8])
    made.add_argument("--decode", nargs="+", choices=("cpu", "gpu"), default=["cpu", "gpu"])
    made.add_argument("--seconds", type=float, default=12)
    options = made.parse_args()
    need_gpu()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tridetr-bench-") as name:
        fused, _ = fused_model(options.model, Path(name))
        clip = Path(name) / "clip.ts"
        write_clip(clip, "libx264", "yuv420p", _H264, FULL_HD)
        Camera.data = clip.read_bytes()
        server = Server(("127.0.0.1", 0), Camera)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/stream"
        for count, decode in itertools.product(options.cameras, options.decode):
            figures[f"{count} cameras, decode: {decode}"] = run(
                fused, url, count, decode, options.seconds
            )
        server.shutdown()
    report("live", options, figures)


if __name__ == "__main__":
    main()
