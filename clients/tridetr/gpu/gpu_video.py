"""H.264 and H.265 on the GPU: packets in, pictures in the order of display out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tridetr.capture.planes import even_size
from tridetr.gpu.annexb import AnnexB
from tridetr.gpu.decoder_api import (
    Codec,
    Gpu,
    GpuDecodeError,
    GpuDecoders,
    GpuUnavailableError,
    Surface,
    VideoEngine,
)
from tridetr.gpu.surface_layout import Copy2d, i420_planes, nv12_pitch
from tridetr.shm.packets import Packet, StreamInfo, VideoCodec
from tridetr.shm.values import ColorMatrix, ColorRange

_log = logging.getLogger("tridetr.gpu")

_CODECS: Final[dict[VideoCodec, Codec]] = {VideoCodec.H264: "h264", VideoCodec.HEVC: "hevc"}
_MOST_WAITING = 64  # packets without a picture yet

Lay = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class DevicePicture:
    """A picture on the GPU, valid until the decoder's next call.

    Attributes:
        packet: the packet it comes from, for its times.
        width: pixels, even.
        height: pixels, even.
        color_range: range of the samples.
        color_matrix: matrix of the samples.
        lay: queues its laying as dense I420 at an address on a stream: called with both.
        jpeg: the camera's own JPEG of it; None: there is none.
    """

    packet: Packet
    width: int
    height: int
    color_range: ColorRange
    color_matrix: ColorMatrix
    lay: Lay
    jpeg: bytes | None = None


class GpuVideo:
    """Decodes one stream.

    NVDEC hides damage instead of reporting it, so packets that the demuxer marked as damaged never reach it: all up to
    the next key frame is skipped, as no picture before it can be trusted.

    Without B-frames each picture comes with its packet. Where the stream announces that it reorders pictures, or turns
    out to (presentation times that go back), the decoder is told to hold pictures back and give them in the order of
    display.
    """

    every_packet = True

    def __init__(self, decoders: GpuDecoders, info: StreamInfo) -> None:
        """Make the decoder.

        Raises:
            GpuUnavailableError: a library is missing, or the stream is nothing for it.
        """
        if info.codec not in _CODECS:
            raise GpuUnavailableError(
                f"{info.codec_name} is not decoded there (H.264, H.265 and MJPEG are)"
            )
        if info.rotation:
            raise GpuUnavailableError("its pictures are turned, which only the CPU does")
        try:
            self._annexb = AnnexB(info)
        except ValueError as error:
            raise GpuUnavailableError(str(error)) from None
        self._decoders = decoders
        self._info = info
        self._reorders = info.reorder > 0
        self._engine = self._open()
        self._waiting: dict[int, Packet] = {}
        self._last_pts: int | None = None
        self._need_key_frame = True

    def decode(self, packet: Packet) -> list[DevicePicture]:
        """Decode a packet.

        Raises:
            GpuDecodeError: it is damaged, or refused; the next may be fine.
            GpuUnavailableError: the GPU does not decode such a stream.
        """
        if packet.discontinuity:
            self._waiting.clear()
            self._last_pts = None
        self._follow_order(packet)
        if packet.corrupt:
            self._need_key_frame = True
        if self._need_key_frame:
            if packet.corrupt or not packet.is_key:
                raise GpuDecodeError("damaged packet: waiting for the next key frame")
            self._need_key_frame = False
        self._waiting[packet.sequence] = packet
        while len(self._waiting) > _MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        try:
            data = self._annexb(packet)
            surfaces = self._engine.decode(
                data, packet.sequence, discontinuity=packet.discontinuity
            )
            return [self._picture(surface, packet) for surface in surfaces]
        except (GpuDecodeError, ValueError) as error:
            self._need_key_frame = True
            raise GpuDecodeError(f"damaged packet: {error}") from None

    def _follow_order(self, packet: Packet) -> None:
        """Make the decoder reorder as soon as a presentation time goes back, from the next key frame on."""
        last, self._last_pts = self._last_pts, packet.pts
        if self._reorders or last is None or packet.pts is None or packet.pts >= last:
            return
        if not packet.is_key:  # at a key frame, the clock of the stream was set back
            _log.info("the stream has B-frames: pictures come in the order of display from now on")
            self._reorders = True
            self._engine = self._open()
            self._waiting.clear()
            self._need_key_frame = True

    def _open(self) -> VideoEngine:
        return self._decoders.video(_CODECS[self._info.codec], reorders=self._reorders)

    def _picture(self, surface: Surface, fed: Packet) -> DevicePicture:
        info = self._info
        lay_all = lay_nv12(self._decoders.gpu, surface)

        def lay(pointer: int, stream: int) -> None:
            self._engine.before(stream)
            lay_all(pointer, stream)

        packet = self._waiting.pop(surface.index, fed)
        width, height = even_size(surface.width, surface.height)
        return DevicePicture(packet, width, height, info.color_range, info.color_matrix, lay)


def lay_nv12(gpu: Gpu, surface: Surface) -> Lay:
    """Return how an NV12 surface becomes I420; odd sizes lose one row or column.

    Raises:
        ValueError: its planes do not lie as NV12 does.
    """
    pitch = nv12_pitch(surface.luma, surface.chroma, surface.width, surface.height)
    width, height = even_size(surface.width, surface.height)

    def lay(pointer: int, stream: int) -> None:
        y, u, v = i420_planes(pointer, width, height)
        gpu.copy(Copy2d(surface.luma, pitch, y, width, width, height), stream)
        gpu.split_chroma(surface.chroma, pitch, u, v, width // 2, height // 2, stream)

    return lay
