"""Time from a compressed frame to a slot: decoding, and the copy after it.

    python benchmarks/decode.py [--width 1920 --height 1080 --frames 200] [--json FILE]

For each format the same decoded picture is written in three ways, in turn within one run: into a slot of a real frame
ring (what capture does), into a fresh I420 array, and to RGB (what most pipelines do). Times are per frame in
milliseconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from common import argument_parser, machine, summary, write_json
from tridetr.capture.planes import copy_picture
from tridetr.capture.sources.base import Layout, Picture
from tridetr.capture.sources.picture import picture_from
from tridetr.i420 import planes
from tridetr.shm.frames import ColorMatrix, ColorRange, FrameStamp, FrameWriter
from tridetr.shm.names import unlink_instance

CLIPS = {
    "h264 4:2:0": ("libx264", "yuv420p", {"preset": "veryfast", "tune": "zerolatency"}),
    "mjpeg 4:2:0": ("mjpeg", "yuvj420p", {}),
    "mjpeg 4:2:2": ("mjpeg", "yuvj422p", {}),
}
CLIP_FRAMES = 30


def write_clip(
    path: Path,
    codec: str,
    pix_fmt: str,
    options: dict[str, str],
    size: tuple[int, int],
    pan: int = 6,
) -> None:
    """Return a picture with edges, ramps and a little noise that moves by ``pan`` pixels a frame."""
    width, height = size
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 200, (height // 40 + 1, width // 40 + 1, 3), dtype=np.uint8)
    scene = np.kron(blocks, np.ones((40, 40, 1), np.uint8))[:height, :width]
    scene = scene + np.linspace(0, 40, width, dtype=np.uint8)[None, :, None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for index in range(CLIP_FRAMES):
            noise = rng.integers(0, 6, scene.shape, dtype=np.uint8)
            rgb = np.roll(scene, index * pan, axis=1) + noise
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pix_fmt)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def decoded(path: Path, frames: int) -> Iterator[tuple[av.VideoFrame, float]]:
    """Yield frames and their decoding time [ms] (one thread), in a loop."""
    done = 0
    while True:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for packet in container.demux(stream):
                started = time.perf_counter_ns()
                found = stream.codec_context.decode(packet if packet.size else None)
                took = (time.perf_counter_ns() - started) / 1e6
                for frame in found:
                    yield frame, took / len(found)
                    done += 1
                    if done == frames:
                        return


def timed(work: Callable[[], object]) -> float:
    """Return the duration of a call [ms]."""
    started = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - started) / 1e6


def into_fresh(picture: Picture) -> NDArray[np.uint8]:
    """Make the same copy, but into a new array for each frame."""
    height, width = picture.height, picture.width
    array = np.empty((height * 3 // 2, width), np.uint8)
    copy_picture(picture, *planes(array))
    return array


class Ring:
    """A real frame ring, written as capture writes it."""

    def __init__(self, instance: str, size: tuple[int, int]) -> None:
        self._writer = FrameWriter(instance, "bench", width=size[0], height=size[1])
        self._number = 0

    def write(self, picture: Picture) -> tuple[float, float]:
        """Publish a picture; return the duration of the copy alone, and of everything [ms]."""
        started = time.perf_counter_ns()
        slot = self._writer.begin()
        assert slot is not None
        copied = timed(lambda: copy_picture(picture, slot.y, slot.u, slot.v))
        now = time.monotonic_ns()
        stamp = FrameStamp(self._number, now, now, picture.color_range, picture.color_matrix)
        self._writer.publish(slot, stamp)
        self._number += 1
        return copied, (time.perf_counter_ns() - started) / 1e6

    def close(self) -> None:
        """Close the ring."""
        self._writer.close()


def compressed(ring: Ring, path: Path, frames: int) -> dict[str, Any]:
    """Measure one clip, each frame in the three ways in turn."""
    rows: dict[str, list[float]] = {}
    scaler = VideoReformatter()

    def add(name: str, value: float) -> None:
        rows.setdefault(name, []).append(value)

    for index, (frame, took) in enumerate(decoded(path, frames)):
        add("decode_ms", took)
        started = time.perf_counter_ns()
        picture = picture_from(frame, scaler)
        add("views_ms", (time.perf_counter_ns() - started) / 1e6)
        # The order changes, because the first one finds the picture in the decoder's caches
        ways = ("slot", "fresh", "rgb")
        for way in ways[index % 3 :] + ways[: index % 3]:
            if way == "slot":
                copied, published = ring.write(picture)
                add("copy_into_slot_ms", copied)
                add("publish_ms", published)
            elif way == "fresh":
                add("copy_into_fresh_array_ms", timed(partial(into_fresh, picture)))
            else:
                add("to_rgb_ms", timed(partial(frame.to_ndarray, format="rgb24")))
        if picture.layout is not Layout.I420:
            add("swscale_to_i420_ms", timed(partial(frame.reformat, format="yuv420p")))
        del picture  # otherwise freeing it would count for the next views
    return {name: summary(values) for name, values in rows.items()}


def raw(ring: Ring, layout: Layout, size: tuple[int, int], frames: int) -> dict[str, Any]:
    """Measure a V4L2 camera's raw buffers: only the copy, without decoding; eight buffers in turn."""
    width, height = size
    rng = np.random.default_rng(0)
    shapes = {
        Layout.NV12: ((height, width), (height // 2, width)),
        Layout.YUYV: ((height, 2 * width),),
    }[layout]
    pictures = [
        Picture(
            layout,
            tuple(rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes),
            width,
            height,
            ColorRange.LIMITED,
            ColorMatrix.BT601,
        )
        for _ in range(8)
    ]
    copies = [ring.write(pictures[n % 8])[0] for n in range(frames)]
    return {"copy_into_slot_ms": summary(copies)}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--frames", type=int, default=200)
    options = parser.parse_args()
    size = (options.width, options.height)
    instance = f"bench{os.getpid()}"
    results: dict[str, Any] = {}
    ring = Ring(instance, size)
    try:
        with TemporaryDirectory() as folder:
            for name, (codec, pix_fmt, codec_options) in CLIPS.items():
                path = Path(folder) / "clip.mkv"
                write_clip(path, codec, pix_fmt, codec_options, size)
                results[name] = compressed(ring, path, options.frames)
        for layout in (Layout.NV12, Layout.YUYV):
            results[f"raw {layout.value}"] = raw(ring, layout, size, options.frames)
    finally:
        ring.close()
        unlink_instance(instance, ["bench"])
    report = {
        "benchmark": "decode",
        "unit": "ms",
        "machine": machine(),
        "frame": {"width": options.width, "height": options.height},
        "frames": options.frames,
        "results": results,
    }
    for name, rows in results.items():
        for row, figures in rows.items():
            cells = "".join(f" {value:8.3f}" for value in figures.values())
            print(f"{name:12} {row:26}{cells}")
    write_json(options, report)


if __name__ == "__main__":
    main()
