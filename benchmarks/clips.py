"""Clips that cameras play: an empty room with the noise of a sensor, and clips joined without encoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np

from tridetr_demo.scene import SyntheticCamera

WIDTH, HEIGHT, FPS = 1920, 1080, 30
CLIP_S = 8
SIGMA = 3.0


def empty_room(footage: Path | None) -> Iterator[np.ndarray]:
    """Yield pictures of an empty room, I420 uint8 [3H/2, W], forwards and backwards."""
    frames = []
    if footage is None:
        planes = np.empty((HEIGHT * 3 // 2, WIDTH), np.uint8)
        SyntheticCamera(WIDTH, HEIGHT, seed=1, scene="hall").draw(0.0, planes)
        frames.append(planes)
    else:
        with av.open(str(footage)) as container:
            for frame in islice(container.decode(video=0), 50):
                scaled = frame.reformat(WIDTH, HEIGHT, "yuv420p")
                frames.append(scaled.to_ndarray())
    frames += frames[-2:0:-1]
    while True:
        yield from frames


class Noise:
    """Adds the noise of a sensor to pictures."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(1)
        # One field of noise is enough, because it is shifted each time
        field = self._rng.standard_normal((HEIGHT + 64, WIDTH + 64), np.float32) * SIGMA
        self._field = field.astype(np.int16)

    def __call__(self, planes: np.ndarray) -> np.ndarray:
        """Return a copy of a picture, I420 uint8 [3H/2, W], with noise that differs from call to call."""
        top, left = self._rng.integers(0, 64, 2)
        noisy: np.ndarray = planes.copy()
        noisy[:HEIGHT] = np.clip(
            planes[:HEIGHT] + self._field[top : top + HEIGHT, left : left + WIDTH], 0, 255
        )
        return noisy


def add_h264(container: av.container.OutputContainer) -> av.VideoStream:
    """Add the H.264 stream of a camera to a file."""
    options = {"preset": "veryfast", "crf": "23", "g": str(2 * FPS)}
    stream = container.add_stream("libx264", rate=FPS, options=options)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    return stream


def write_clips(folder: Path, footage: Path | None) -> tuple[Path, Path]:
    """Write the clip as H.264, and as JPEGs, each after its length in four bytes."""
    noise = Noise()
    clip, jpegs = folder / "clip.mp4", folder / "clip.jpegs"
    jpeg = av.CodecContext.create("mjpeg", "w")
    jpeg.width, jpeg.height, jpeg.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
    jpeg.framerate = Fraction(FPS)
    with av.open(str(clip), "w") as container, jpegs.open("wb") as pictures:
        stream = add_h264(container)
        # The footage has ten frames a second: use each three times, with different noise
        rooms = (planes for planes in empty_room(footage) for _ in range(3))
        for planes in map(noise, islice(rooms, CLIP_S * FPS)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
            for packet in jpeg.encode(av.VideoFrame.from_ndarray(planes, format="yuvj420p")):
                pictures.write(packet.size.to_bytes(4, "little") + bytes(packet))
        container.mux(stream.encode())
    return clip, jpegs


def join(clips: Sequence[Path], target: Path) -> None:
    """Write clips of the same encoder and rate one after the other, without encoding them again."""
    with av.open(str(clips[0])) as source, av.open(str(target), "w") as made:
        copy = made.add_stream_from_template(source.streams.video[0])
        offset = 0
        for clip in clips:
            with av.open(str(clip)) as container:
                stream = container.streams.video[0]
                assert stream.time_base is not None
                assert stream.average_rate is not None
                step = round(1 / stream.average_rate / stream.time_base)
                packets = [packet for packet in container.demux(stream) if packet.size]
                base = min(packet.dts or 0 for packet in packets)
                for packet in packets:
                    packet.stream = copy
                    packet.pts = (packet.pts or 0) - base + offset
                    packet.dts = (packet.dts or 0) - base + offset
                    made.mux(packet)
                offset += len(packets) * step
