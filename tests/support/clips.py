"""Generate small video files and JPEGs for tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

# As cameras encode: no B-frames, no delay, a key frame every ten frames
CAMERA_OPTIONS = {"bf": "0", "tune": "zerolatency", "g": "10", "preset": "ultrafast"}


def picture(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """Return an RGB picture [height, width, 3] that differs for each index, and is smooth enough for JPEG."""
    y, x = np.mgrid[0:height, 0:width]
    red = (x * 255 // width + index * 9) % 256
    green = (y * 255 // height + index * 5) % 256
    blue = np.full_like(red, (index * 37) % 256)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def write_clip(
    path: Path,
    count: int,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (320, 240),
    fps: int = 30,
    indices: Iterable[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a clip of `picture(index)` for each index (default 0, 1, 2, ...)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        for index in indices if indices is not None else range(count):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pix_fmt)))
        container.mux(stream.encode())
    return path


def jpegs(
    count: int, *, size: tuple[int, int] = (320, 240), pix_fmt: str = "yuvj420p"
) -> list[bytes]:
    """Return JPEGs of `picture(0)`, `picture(1)`, ... as a camera delivers them."""
    codec = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height = size
    codec.pix_fmt = pix_fmt
    codec.time_base = Fraction(1, 30)
    found: list[bytes] = []
    for index in range(count):
        frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
        frame = frame.reformat(format=pix_fmt)
        frame.pts = index
        found += [bytes(packet) for packet in codec.encode(frame)]
    found += [bytes(packet) for packet in codec.encode(None)]
    return found


def write_mjpeg(path: Path, packets: Sequence[bytes], *, fps: int = 30) -> Path:
    """Write packets with any content as an MJPEG file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuvj420p"
        for number, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream = stream
            packet.time_base = Fraction(1, fps)
            packet.pts = packet.dts = number
            packet.is_keyframe = True
            container.mux(packet)
    return path


def decoded(path: Path) -> list[NDArray[np.uint8]]:
    """Return all frames of a file as I420 [3H/2, W], converted by PyAV."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]
