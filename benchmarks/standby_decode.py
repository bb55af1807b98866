"""CPU that `sentry.standby_decode: keyframes` saves while no one is there, and how much later an alarm comes.

    python benchmarks/standby_decode.py FOOTAGE MODEL --arrival N [--passes 8] [--min-score S] [--json FILE]

FOOTAGE shows no one for some seconds before frame N, and a person for some seconds from then on; MODEL is a fused model
that detects people. A 1080p H.264 stream with one key frame a second is made from it, in which the person arrives
repeatedly, each time at another distance from the last key frame. It is served over HTTP in real time to two
cameras of one node, one of which decodes all. For each: seconds from the arrival of the first picture with the person
to state `tracking`, and CPU of the capture process in standby (percent of a core).
"""

from __future__ import annotations

import contextlib
import http.server
import os
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import psutil
from av.video.reformatter import VideoReformatter

from common import argument_parser, machine, node, roles, summary, wait_for, write_json
from tridetr.shm.boards import SentryMode, SentryReader, SentryState
from tridetr.shm.packets import PacketReader

SIZE = 1920, 1080
BEFORE, AFTER = 30, 45  # frames of a pass before and after the arrival
DECODES = ("all", "keyframes")


def make_stream(footage: Path, arrival: int, passes: int, file: Path) -> list[int]:
    """Write the stream; return the numbers of the packets with the first picture of the person."""
    frames = {}
    first, last = arrival - BEFORE - 30, arrival + AFTER
    resize = VideoReformatter()
    with av.open(str(footage)) as source:
        fps = round(float(source.streams.video[0].average_rate or 10))
        for number, frame in enumerate(source.decode(video=0)):
            if number >= last:
                break
            if number >= first:
                frames[number] = resize.reformat(frame, *SIZE, format="yuv420p")
    arrivals = []
    with av.open(str(file), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.bit_rate = 4_000_000
        stream.options = {
            "preset": "superfast",
            "tune": "zerolatency",
            "x264-params": f"keyint={fps}:scenecut=0",
        }
        count = 0
        for index in range(passes):
            # A distance from the key frame that no earlier pass had
            wait = BEFORE + (3 * index - count - BEFORE) % fps
            arrivals.append(count + wait)
            for number in range(arrival - wait, last):
                frame = frames[number]
                frame.pts, frame.time_base = count, 1 / stream.average_rate
                container.mux(stream.encode(frame))
                count += 1
        container.mux(stream.encode())
    return arrivals


class Player(http.server.BaseHTTPRequestHandler):
    """Plays the stream to each client, in real time."""

    file: Path

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "video/mp2t")
        self.end_headers()
        with (
            contextlib.suppress(OSError, av.error.PyAVCallbackError),
            av.open(str(self.file)) as source,
        ):
            stream = source.streams.video[0]
            with av.open(self.wfile, "w", format="mpegts", buffer_size=1316) as out:
                copy = out.add_stream_from_template(stream)
                began_s = time.monotonic()
                for count, packet in enumerate(source.demux(stream)):
                    if packet.size:
                        due_s = began_s + float(count / (stream.average_rate or 10))
                        time.sleep(max(0.0, due_s - time.monotonic()))
                        packet.stream = copy
                        out.mux(packet)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@dataclass
class Watch:
    """The observations of one camera."""

    instance: str
    camera: str
    arrivals: list[int]
    waits: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    standby_s: float = 0.0
    packets: int = 0
    at: dict[int, float] = field(default_factory=dict)  # time of arrival of each packet

    def run(self, process: psutil.Process, stop: threading.Event) -> None:
        last_s, last_cpu, mode = time.monotonic(), sum(process.cpu_times()[:2]), None
        state = SentryState.UNKNOWN
        with (
            PacketReader(self.instance, self.camera) as packets,
            SentryReader(self.instance, self.camera) as sentry,
        ):
            while not stop.wait(0.005):
                while (packet := packets.read()) is not None:
                    if packet.discontinuity and self.packets:
                        return  # the stream begins again
                    self.at[self.packets] = packet.capture_unix_ns / 1e9
                    self.packets += 1
                snapshot = sentry.read()
                if snapshot is None:
                    continue
                if snapshot.state is not state and snapshot.state is SentryState.TRACKING:
                    self._alarm(time.time())
                state = snapshot.state
                now_s = time.monotonic()
                if now_s - last_s >= 0.5:
                    cpu = sum(process.cpu_times()[:2])
                    if self.packets and mode is SentryMode.STANDBY is snapshot.mode:
                        self.cpu_s += cpu - last_cpu
                        self.standby_s += now_s - last_s
                    last_s, last_cpu, mode = now_s, cpu, snapshot.mode

    def _alarm(self, now_s: float) -> None:
        begun = [at for number in self.arrivals if (at := self.at.get(number)) and at <= now_s]
        if begun:
            self.waits.append(now_s - begun[-1])

    def figures(self) -> dict[str, Any]:
        standby = round(self.cpu_s / self.standby_s * 100, 1) if self.standby_s else None
        return {
            "alarms": f"{len(self.waits)} of {len(self.arrivals)}",
            "time to alarm, s": summary(self.waits, 2) if self.waits else None,
            "capture in standby, % of a core": standby,
            "standby, s": round(self.standby_s, 1),
        }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("footage", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--arrival", type=int, required=True, help="first frame with the person")
    parser.add_argument("--passes", type=int, default=8)
    parser.add_argument("--min-score", type=float, default=0.5)
    options = parser.parse_args()
    instance = f"sd{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="tridetr-bench-") as name:
        folder = Path(name)
        arrivals = make_stream(
            options.footage, options.arrival, options.passes, folder / "stream.ts"
        )
        Player.file = folder / "stream.ts"
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Player)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = f"http://127.0.0.1:{server.server_port}/stream.ts"
        config: dict[str, Any] = {
            "instance": instance,
            "cameras": {
                decode: {"source": source, "sentry": {"standby_decode": decode, "clear_s": 1}}
                for decode in DECODES
            },
            "model": {"file": str(options.model.resolve())},
            "detect": {"min_score": options.min_score, "classes": ["person"]},
            "mqtt": {"host": "embedded", "port": 0},
            "gateway": {"port": 0},
            "run_dir": str(folder / "run"),
            "state_dir": str(folder / "state"),
        }
        watches = [Watch(instance, decode, arrivals) for decode in DECODES]
        stop = threading.Event()
        with node(config, folder) as supervisor:
            names = {f"capture {decode}" for decode in DECODES}
            wait_for(lambda: names <= roles(supervisor).keys(), supervisor, folder / "log")
            processes = roles(supervisor)
            threads = [
                threading.Thread(
                    target=watch.run, args=(processes[f"capture {watch.camera}"], stop)
                )
                for watch in watches
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(options.passes * 12 + 60)
            stop.set()
        server.shutdown()
    figures = {watch.camera: watch.figures() for watch in watches}
    for decode, values in figures.items():
        print(decode, values)
    result = {"benchmark": "standby_decode", "machine": machine(), "decode": figures}
    write_json(options, result)


if __name__ == "__main__":
    main()
