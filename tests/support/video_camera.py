"""A camera for gateway tests whose own H.264 video is in its packet ring, beside the frames that it is made from."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

from support.gateway import FIGURE, GROUND, FakeCamera
from tridetr.codec_string import codec_string, units
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
        size: tuple[int, int] | None = None,
    ) -> None:
        self.camera = camera
        self.sent: list[Sent] = []
        self._encoder, self._group, self._b_frames = encoder, group, b_frames
        self.writer = PacketWriter(instance, camera.name, seconds=10, max_mib=8)
        self._pending: dict[int, tuple[int, int]] = {}
        self.start(*(size or (camera.width, camera.height)))

    def start(self, width: int, height: int) -> None:
        """Begin a stream, as a camera does whose resolution was changed."""
        name, codec = _CODECS[self._encoder]
        self.size = width, height
        extradata = _parameter_sets(self._make_context(width, height))
        self._context = self._make_context(width, height)
        self._pts = 0
        self.info = StreamInfo(
            codec=codec,
            codec_name=name,
            codec_string=codec_string(name, extradata),
            extradata=extradata,
            width=width,
            height=height,
            rotation=0,
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
            "x264-params": f"keyint={self._group}:scenecut=0:bframes={self._b_frames}:repeat-headers=1",
            **({} if self._b_frames else {"tune": "zerolatency"}),
        }
        context.gop_size, context.max_b_frames = self._group, self._b_frames
        context.open()
        return context

    def frame(self) -> int:
        """Publish the next picture, as frame and as packets; returns the frame's sequence."""
        sequence = self.camera.frame()
        assert sequence is not None
        number, monotonic, unix = self.camera.stamps[sequence]
        self._pts += 6000
        self._pending[self._pts] = monotonic, unix
        width, height = self.size
        planes = np.empty((height * 3 // 2, width), np.uint8)
        x1, y1, x2, y2 = self.camera.truth(number)
        sx, sy = width / self.camera.width, height / self.camera.height
        luma = planes[:height]
        chroma = planes[height:].reshape(2, height // 2, width // 2)
        luma[:] = GROUND[0]
        chroma[:] = GROUND[1]
        luma[round(y1 * sy) : round(y2 * sy), round(x1 * sx) : round(x2 * sx)] = FIGURE[0]
        for plane, value in zip(chroma, FIGURE[1:], strict=True):
            plane[
                round(y1 * sy / 2) : round(y2 * sy / 2), round(x1 * sx / 2) : round(x2 * sx / 2)
            ] = value
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
        return sequence

    def play(self, seconds: float, fps: float = 15, *, results: bool = True) -> None:
        """Publish pictures, each with its result, for some time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sequence = self.frame()
            if results:
                self.camera.result(sequence)
            self.camera.say()
            time.sleep(1 / fps)

    def reopen(self, instance: str) -> None:
        """Go on as a capture process that was restarted in the middle of a group of pictures."""
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
