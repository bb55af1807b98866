"""Cost of the camera's own video: writing its packets, and forwarding them to viewers, compared with JPEG.

    python benchmarks/packets.py [--seconds 8] [--viewers 1 50] [--json FILE]

A 1080p30 H.264 stream (about 4 Mbit/s) is demuxed from memory. First packets are put into the ring, one after the
other, and then each is decoded in between, so that the caches are cold: microseconds of CPU time. Then this process
plays the stream in real time into both rings of a camera (packets, and decoded frames), a real gateway serves them, and
viewers in another process read everything, first as video and then as JPEG: CPU of the gateway in per cent of a
core.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import multiprocessing
import os
import struct
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from common import answers, argument_parser, machine, node, roles, summary, wait_for, write_json
from tridetr.capture.packets import PacketSink
from tridetr.config import PacketsSection
from tridetr.ports import free_port
from tridetr.shm.boards import CameraState, CameraStatus, StatusWriter
from tridetr.shm.frames import ColorMatrix, ColorRange, FrameStamp, FrameWriter
from tridetr.shm.names import unlink_instance

WIDTH, HEIGHT, FPS = 1920, 1080, 30
COUNT = 90
WARM_UP, ROUNDS = 4, 8  # passes through the clip


def make_clip() -> bytes:
    """Return a clip whose packets are as large as a camera's."""
    dice = np.random.default_rng(1)
    still = dice.integers(40, 200, (HEIGHT // 8, WIDTH // 8), np.uint8).repeat(8, 0).repeat(8, 1)
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 4_000_000
        stream.options = {"preset": "veryfast", "tune": "zerolatency", "x264-params": "keyint=30"}
        planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
        for number in range(COUNT):
            planes[:HEIGHT] = still
            planes[300:800, number * 12 : number * 12 + 300] = dice.integers(0, 255, (500, 300))
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def put_packets(clip: bytes, instance: str, *, decode: bool) -> dict[str, Any]:
    """Return the CPU time of writing a packet, and of decoding it in between [µs].

    The time is that of the thread: waiting for the GIL or for a core is not part of it. The ring has wrapped around
    before, as after the first ten seconds of a camera.
    """
    putting: list[float] = []
    decoding: list[float] = []
    sizes: list[int] = []
    number, began_ns = 0, time.monotonic_ns()
    with PacketSink(instance, "cam", PacketsSection()) as sink:
        for _ in range(WARM_UP + ROUNDS):
            with av.open(io.BytesIO(clip)) as container:
                stream = container.streams.video[0]
                stream.codec_context.thread_type = "SLICE"
                sink.open(stream)
                for packet in container.demux(stream):
                    if not packet.size:
                        continue
                    number += 1
                    captured = began_ns + number * 1_000_000_000 // FPS
                    started = time.thread_time_ns()
                    sink.put(packet, captured, captured)
                    put = time.thread_time_ns()
                    if decode:
                        stream.codec_context.decode(packet)
                    if number > WARM_UP * COUNT:
                        putting.append((put - started) / 1e3)
                        decoding.append((time.thread_time_ns() - put) / 1e3)
                        sizes.append(packet.size)
    figures = {"put, us of CPU time": summary(putting, 1)}
    if decode:
        figures["decode, us of CPU time"] = summary(decoding, 0)
    return figures | {"mbit_s": round(sum(sizes) / len(sizes) * FPS * 8 / 1e6, 2)}


class Camera(threading.Thread):
    """Plays the clip into both rings, in real time."""

    def __init__(self, instance: str, clip: bytes) -> None:
        super().__init__(daemon=True)
        self._instance, self._clip = instance, clip
        self.stop = threading.Event()

    def run(self) -> None:
        with av.open(io.BytesIO(self._clip)) as container:
            pictures = [
                frame.to_ndarray()
                for frame, _ in zip(container.decode(video=0), range(8), strict=False)
            ]
        with (
            PacketSink(self._instance, "cam", PacketsSection()) as sink,
            FrameWriter(self._instance, "cam", width=WIDTH, height=HEIGHT) as writer,
            StatusWriter(self._instance, "cam") as board,
        ):
            number = 0
            due = time.monotonic()
            while not self.stop.is_set():
                with av.open(io.BytesIO(self._clip)) as container:
                    stream = container.streams.video[0]
                    sink.open(stream)
                    for packet in container.demux(stream):
                        if not packet.size or self.stop.is_set():
                            continue
                        due += 1 / FPS
                        self.stop.wait(max(0.0, due - time.monotonic()))
                        now, unix = time.monotonic_ns(), time.time_ns()
                        sink.put(packet, now, unix)
                        number += 1
                        slot = writer.begin()
                        if slot is not None:
                            slot.planes[:] = pictures[number % len(pictures)]
                            stamp = FrameStamp(
                                number, now, unix, ColorRange.LIMITED, ColorMatrix.BT709
                            )
                            writer.publish(slot, stamp)
                        board.write(
                            CameraStatus(
                                CameraState.LIVE, unix, now, WIDTH, HEIGHT, FPS, "rtsp", "arrival"
                            )
                        )


async def watch(port: int, *, video: bool, counts: list[int], index: int) -> None:
    """Receive all messages, like the page."""
    address = f"ws://127.0.0.1:{port}/ws/cam"
    async with connect(
        address, subprotocols=[Subprotocol("tridetr.v1")], max_size=None, compression=None
    ) as socket_:
        await socket_.send(json.dumps({"type": "view", "video": video, "window": 2}))
        packets = frames = 0
        async for message in socket_:
            assert isinstance(message, bytes)
            (length,) = struct.unpack_from("<I", message)
            head = message[4 : 4 + min(length, 24)]
            if head.startswith(b'{"type":"video"'):
                packets += 1
                if packets % 6 == 0:
                    await socket_.send(json.dumps({"type": "ack", "frames": 0, "packets": packets}))
            elif head.startswith(b'{"type":"frame"'):
                frames += 1
                await socket_.send(json.dumps({"type": "ack", "frames": frames, "packets": 0}))
            counts[index] = packets if video else frames


def view(port: int, viewers: int, video: bool, seconds: float, out: Any) -> None:
    """Watch with many viewers in a separate process; report messages per second and viewer."""

    async def work() -> float:
        counts = [0] * viewers
        tasks = [
            asyncio.create_task(watch(port, video=video, counts=counts, index=index))
            for index in range(viewers)
        ]
        await asyncio.sleep(3)
        out.put("ready")
        before = sum(counts)
        await asyncio.sleep(seconds)
        rate = (sum(counts) - before) / seconds / viewers
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return rate

    out.put(asyncio.run(work()))


def measure(
    process: Any, port: int, viewers: int, *, video: bool, seconds: float
) -> dict[str, float]:
    """Return the CPU of the gateway for this number of viewers."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    child = context.Process(target=view, args=(port, viewers, video, seconds, out))
    child.start()
    out.get(timeout=60)
    before, started = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(seconds - 0.5)
    used = sum(process.cpu_times()[:2]) - before
    share = used / (time.monotonic() - started) * 100
    rate = out.get(timeout=60)
    child.join()
    return {"gateway, % of a core": round(share, 1), "per second and viewer": round(rate, 1)}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--viewers", type=int, nargs="+", default=[1, 50])
    options = parser.parse_args()
    instance = f"pk{os.getpid()}"
    clip = make_clip()
    writing: dict[str, Any] = {}
    try:
        for decode in (False, True):
            key = "between decodes" if decode else "alone"
            writing[key] = put_packets(clip, instance, decode=decode)
    finally:
        unlink_instance(instance, ["cam"])
    print(writing, flush=True)
    port = free_port()
    figures: dict[str, Any] = {}
    camera = Camera(instance, clip)
    with tempfile.TemporaryDirectory(prefix="tridetr-bench-") as name:
        folder = Path(name)
        config: dict[str, Any] = {
            "instance": instance,
            "cameras": {"cam": {"source": "rtsp://127.0.0.1/none"}},
            "gateway": {"host": "127.0.0.1", "port": port, "max_viewers": 100},
            "run_dir": str(folder / "run"),
            "state_dir": str(folder / "state"),
        }
        camera.start()
        try:
            with node(config, folder, ("gateway",)) as supervisor:
                wait_for(lambda: answers(port), supervisor, folder / "log")
                gateway = roles(supervisor)["serve"]
                for viewers in options.viewers:
                    for video in (True, False):
                        key = f"{viewers} viewer{'s' if viewers > 1 else ''}, {'video' if video else 'JPEG'}"
                        figures[key] = measure(
                            gateway, port, viewers, video=video, seconds=options.seconds
                        )
                        print(key, figures[key], flush=True)
        finally:
            camera.stop.set()
            camera.join()
            with contextlib.suppress(Exception):
                unlink_instance(instance, ["cam"])
    result = {
        "benchmark": "packets",
        "machine": machine(),
        "writing": writing,
        "viewers": figures,
    }
    write_json(options, result)


if __name__ == "__main__":
    main()
