"""Latency from the camera's buffer to the browser's canvas, by a time drawn into the picture.

    python benchmarks/browser.py [--width 1280 --height 720 --fps 15 --seconds 15] [--video] [--json FILE]

This process is the camera: it draws the current time as 32 black or white bars and publishes the frame. A real gateway
encodes and sends it, a real Chromium shows the viewer's page, and at each animation frame the bars are read back from
the page's canvas. The figure (ms) includes copy, ring, wake-up, JPEG, WebSocket, decoding, drawing, and up to one
animation frame of waiting. It does not include the exposure of a camera or the delay of a display.

With --video the camera encodes H.264, and the browser decodes its packets. The encoding is the camera's work, not
tridetr's, but it is included in the figure; its time is shown next to it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray
from playwright.sync_api import sync_playwright

from common import answers, argument_parser, machine, node, summary, wait_for, write_json
from tridetr.codec_string import codec_string
from tridetr.ports import free_port
from tridetr.shm.boards import CameraState, CameraStatus, StatusWriter
from tridetr.shm.closing import Closing
from tridetr.shm.frames import ColorMatrix, ColorRange, FrameStamp, FrameWriter
from tridetr.shm.names import unlink_instance
from tridetr.shm.packets import PacketStamp, PacketWriter, StreamInfo, VideoCodec

BITS = 32
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
READ_BARS = """
() => {
  const canvas = document.querySelector('canvas.picture');
  const context = canvas.getContext('2d');
  window.seen = [];
  let last = -1;
  const look = () => {
    requestAnimationFrame(look);
    if (canvas.width < 64) return;
    const row = context.getImageData(0, canvas.height >> 3, canvas.width, 1).data;
    let sent = 0;
    for (let bit = 0; bit < 32; bit++) {
      const x = Math.floor((bit + 0.5) * canvas.width / 32);
      if (row[4 * x] > 127) sent += 2 ** bit;
    }
    if (sent === last) return;
    last = sent;
    window.seen.push((performance.timeOrigin + performance.now()) % 2 ** 32 - sent);
  };
  look();
}
"""


class Encoder(Closing):
    """The H.264 encoder inside a camera."""

    def __init__(self, instance: str, size: tuple[int, int]) -> None:
        self._size = size
        self._writer = PacketWriter(instance, "cam", seconds=10, max_mib=24)
        codec = av.CodecContext.create("libx264", "w")
        assert isinstance(codec, VideoCodecContext)
        codec.width, codec.height = size
        codec.pix_fmt, codec.time_base = "yuv420p", Fraction(1, 90_000)
        codec.options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "keyint=30"}
        codec.flags |= int(Flags.global_header)
        codec.open()
        self._codec = codec
        self._number = 0
        self.took_ms: list[float] = []
        extradata = codec.extradata or b""
        self._writer.start_stream(
            StreamInfo(
                VideoCodec.H264, "h264", codec_string("h264", extradata), extradata, *size, 0,
                ColorRange.LIMITED, ColorMatrix.BT601, (1, 90_000), 0.0, 0,
            )
        )  # fmt: skip

    def put(self, planes: NDArray[np.uint8], monotonic_ns: int, unix_ns: int) -> None:
        """Encode a picture and publish its packet."""
        started = time.perf_counter()
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        self._number += 1
        frame.pts, frame.time_base = self._number * 6000, Fraction(1, 90_000)
        packets = self._codec.encode(frame)
        self.took_ms.append((time.perf_counter() - started) * 1000)
        for packet in packets:
            stamp = PacketStamp(
                monotonic_ns, unix_ns, packet.pts, packet.dts, is_key=packet.is_keyframe
            )
            self._writer.put(bytes(packet), stamp)

    def close(self) -> None:
        """Close the ring."""
        self._writer.close()


class Camera(threading.Thread):
    """Publishes frames that show the time."""

    def __init__(self, instance: str, options: argparse.Namespace) -> None:
        super().__init__(daemon=True)
        self._size = options.width, options.height
        self._instance = instance
        self._fps = options.fps
        self._video = options.video
        self.encoding_ms: list[float] = []
        self.stop = threading.Event()

    def run(self) -> None:
        width, height = self._size
        picture = np.full((height * 3 // 2, width), 128, np.uint8)
        picture[:height] = np.linspace(40, 200, width, dtype=np.uint8)
        with (
            FrameWriter(self._instance, "cam", width=width, height=height) as writer,
            StatusWriter(self._instance, "cam") as board,
            contextlib.ExitStack() as stack,
        ):
            video = (
                stack.enter_context(Encoder(self._instance, self._size)) if self._video else None
            )
            if video is not None:
                self.encoding_ms = video.took_ms
            number = 0
            while not self.stop.wait(1 / self._fps):
                number += 1
                now_ms = time.time_ns() // 1_000_000 % 2**BITS
                bits = (now_ms >> np.arange(BITS)) & 1
                bars = np.repeat(bits * 219 + 16, width // BITS).astype(np.uint8)
                picture[: height // 4, : len(bars)] = bars
                slot = writer.begin()
                assert slot is not None
                slot.planes[:] = picture
                now, unix = time.monotonic_ns(), time.time_ns()
                stamp = FrameStamp(number, now, unix, ColorRange.LIMITED, ColorMatrix.BT601)
                if video is not None:
                    video.put(picture, now, unix)
                writer.publish(slot, stamp)
                board.write(
                    CameraStatus(
                        CameraState.LIVE,
                        time.time_ns(),
                        now,
                        width,
                        height,
                        self._fps,
                        "synthetic",
                        "synthetic",
                        0,
                        "",
                    )
                )


def look(url: str, seconds: float) -> tuple[list[float], str]:
    """Return the age of each picture when it was on the canvas [ms], and the browser's version."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(url)
        page.wait_for_function(
            "() => (document.querySelector('canvas.picture')?.width ?? 0) > 64", timeout=60_000
        )
        page.evaluate(READ_BARS)
        time.sleep(2)  # until the page is stable
        page.evaluate("() => { window.seen.length = 0; }")
        time.sleep(seconds)
        return list(page.evaluate("() => window.seen")), browser.version


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--width", type=int, default=1280, help="a multiple of 32")
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--fps", type=float, default=15)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--video", action="store_true", help="the camera's own H.264, not JPEG")
    options = parser.parse_args()
    instance = f"bench{os.getpid()}"
    port = free_port()
    camera = Camera(instance, options)
    with tempfile.TemporaryDirectory(prefix="tridetr-bench-") as name:
        folder = Path(name)
        config: dict[str, Any] = {
            "instance": instance,
            "cameras": {"cam": {"source": "synthetic"}},
            "gateway": {"host": "127.0.0.1", "port": port},
            "run_dir": str(folder / "run"),
            "state_dir": str(folder / "state"),
        }
        camera.start()
        try:
            with node(config, folder, ("gateway",)) as process:
                wait_for(lambda: answers(port), process, folder / "log")
                ages, version = look(f"http://127.0.0.1:{port}/", options.seconds)
        finally:
            camera.stop.set()
            camera.join()
            unlink_instance(instance, ["cam"])
    if not ages:
        raise SystemExit("no picture changed in the browser")
    result = {
        "benchmark": "browser",
        "machine": machine(),
        "browser": version,
        "pictures": "video" if options.video else "JPEG",
        "frame": {"width": options.width, "height": options.height},
        "figures": {"camera buffer to canvas, ms": summary(ages)},
        "pictures_per_second": round(len(ages) / options.seconds, 1),
    }
    if camera.encoding_ms:
        result["figures"]["of it encoding in the camera, ms"] = summary(camera.encoding_ms)
    print(result["figures"], result["pictures_per_second"])
    write_json(options, result)


if __name__ == "__main__":
    main()
