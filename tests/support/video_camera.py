"""A camera for gateway tests, with H.264 video in its packet ring and the same pictures in its frame ring."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from support.gateway import FIGURE, GROUND, FakeCamera
from tridetr.codec_string import codec_string, units
from tridetr.shm.names import PACKETS
from tridetr.shm.packets import PacketStamp, PacketWriter, StreamInfo, VideoCodec
from tridetr.shm.values import ColorMatrix, ColorRange

_CODECS = {"libx264": ("h264", VideoCodec.H264), "libx265": ("hevc", VideoCodec.HEVC)}


@dataclass(frozen=True)
class Sent:
    """A packet as it was published."""

    data: bytes
    is_key: bool
    unix_ns: int


class VideoCamera:
    """Encodes the pictures of a fake camera; each packet has the capture times of its picture."""

    def __init__(
        self,
        instance: str,
        camera: FakeCamera,
        *,
        encoder: str = "libx264",
        group: int = 10,
        b_frames: int = 0,
        open_gop: bool = False,
        size: tuple[int, int] | None = None,
        rotation: int = 0,
        kind: str = PACKETS,
    ) -> None:
        """Begin.

        Args:
            instance: Name of the tridetr instance.
            camera: The camera whose pictures are encoded.
            encoder: libx264 or libx265.
            group: Number of pictures from one key frame to the next.
            b_frames: Number of B-frames between two other frames.
            open_gop: Whether pictures can depend on the previous group.
            size: Size of the stored pictures; None = that of the frames.
            rotation: Degrees clockwise by which the pictures must be rotated.
            kind: Kind of the ring: that of the first or of the second stream.
        """
        self.camera = camera
        self._open_gop, self._rotation = open_gop, rotation
        self.sent: list[Sent] = []
        self._encoder, self._group, self._b_frames = encoder, group, b_frames
        self.writer = PacketWriter(instance, camera.name, seconds=10, max_mib=8, kind=kind)
        self._pending: dict[int, tuple[int, int]] = {}
        self.start(*(size or (camera.width, camera.height)))

    def start(self, width: int, height: int, *, encoder: str = "") -> None:
        """Begin a new stream, like a camera whose resolution or codec was changed."""
        self._encoder = encoder or self._encoder
        name, codec = _CODECS[self._encoder]
        self.size = width, height
        extradata = _parameter_sets(self._make_context(width, height))
        self._context = self._make_context(width, height)
        self._pts = 0
        self._pending.clear()
        self.info = StreamInfo(
            codec=codec,
            codec_name=name,
            codec_string=codec_string(name, extradata),
            extradata=extradata,
            width=width,
            height=height,
            rotation=self._rotation,
            color_range=ColorRange.LIMITED,
            color_matrix=ColorMatrix.BT601,
            time_base=(1, 90_000),
            fps=15,
            reorder=2 if self._b_frames else 0,
        )
        self.writer.start_stream(self.info)

    def _make_context(self, width: int, height: int) -> VideoCodecContext:
        context = av.CodecContext.create(self._encoder, "w")
        assert isinstance(context, VideoCodecContext)
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base, context.framerate = Fraction(1, 90_000), Fraction(15, 1)
        context.options = {
            "preset": "ultrafast",
            f"{self._encoder.removeprefix('lib')}-params": f"keyint={self._group}:scenecut=0:bframes={self._b_frames}:"
            f"repeat-headers=1:open-gop={int(self._open_gop)}",
            **({} if self._b_frames else {"tune": "zerolatency"}),
        }
        context.gop_size, context.max_b_frames = self._group, self._b_frames
        context.open()
        return context

    def frame(self) -> int:
        """Publish the next picture, as frame and as packets; return the frame's sequence number."""
        sequence = self.camera.frame()
        assert sequence is not None
        self.encode(sequence)
        return sequence

    def encode(self, sequence: int) -> None:
        """Publish the picture of a frame as packets only."""
        number, monotonic, unix = self.camera.stamps[sequence]
        self._pts += 6000
        self._pending[self._pts] = monotonic, unix
        planes = self._draw(number)
        picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        picture.pts, picture.time_base = self._pts, Fraction(1, 90_000)
        for packet in self._context.encode(picture):
            assert packet.pts is not None
            monotonic, unix = self._pending.pop(packet.pts)
            data = bytes(packet)
            self.writer.put(
                data,
                PacketStamp(
                    monotonic, unix, packet.pts, packet.dts, packet.duration, packet.is_keyframe
                ),
            )
            self.sent.append(Sent(data, packet.is_keyframe, unix))

    def _draw(self, number: int) -> NDArray[np.uint8]:
        """Return the picture as it is stored, uint8 [3H/2, W]."""
        turns = self._rotation // 90
        width, height = self.size if turns % 2 == 0 else self.size[::-1]  # upright
        x1, y1, x2, y2 = self.camera.truth(number)
        sx, sy = width / self.camera.width, height / self.camera.height
        planes = []
        for scale, ground, figure in zip((1, 2, 2), GROUND, FIGURE, strict=True):
            plane = np.full((height // scale, width // scale), ground, np.uint8)
            rows = slice(round(y1 * sy / scale), round(y2 * sy / scale))
            plane[rows, round(x1 * sx / scale) : round(x2 * sx / scale)] = figure
            planes.append(np.rot90(plane, turns).ravel())
        return np.concatenate(planes).reshape(self.size[1] * 3 // 2, self.size[0])

    def play(self, seconds: float, fps: float = 15, *, results: bool = True) -> None:
        """Publish pictures, each with its result, for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sequence = self.frame()
            if results:
                self.camera.result(sequence)
            self.camera.report()
            time.sleep(1 / fps)

    def reopen(self, instance: str) -> None:
        """Continue like a capture process that was restarted in the middle of a group of pictures."""
        self.writer.close()
        self.writer = PacketWriter(instance, self.camera.name, seconds=10, max_mib=8)
        self.writer.start_stream(self.info)

    def close(self) -> None:
        self.writer.close()


def _parameter_sets(context: VideoCodecContext) -> bytes:
    """Return the parameter sets that an encoder writes before its key frames."""
    picture = av.VideoFrame(context.width, context.height, "yuv420p")
    picture.pts, picture.time_base = 0, Fraction(1, 90_000)
    found = units(bytes(next(iter([*context.encode(picture), *context.encode(None)]))))
    is_h264 = context.name == "libx264"
    wanted = (7, 8) if is_h264 else (32, 33, 34)
    kinds = [unit[0] & 31 if is_h264 else unit[0] >> 1 & 63 for unit in found]
    return b"".join(
        b"\0\0\0\1" + unit for unit, kind in zip(found, kinds, strict=True) if kind in wanted
    )


@contextmanager
def playing(
    camera: VideoCamera, *, fps: float = 10, late_s: float = 0.0, every: int = 1
) -> Iterator[None]:
    """Play frames in a thread; every n-th frame gets a result, after a delay (0 = none gets one)."""
    stop = threading.Event()
    pending: list[tuple[float, int]] = []

    def work() -> None:
        number = 0
        while not stop.wait(1 / fps):
            sequence = camera.frame()
            number += 1
            if every and number % every == 0:
                pending.append((time.monotonic() + late_s, sequence))
            while pending and pending[0][0] <= time.monotonic():
                camera.camera.result(pending.pop(0)[1])
            camera.camera.report()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
