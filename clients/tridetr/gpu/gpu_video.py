"""Decodes H.264 and H.265 on the GPU: takes packets, returns pictures in display order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from tridetr.capture.planes import even_size
from tridetr.gpu.annexb import CODECS, AnnexB
from tridetr.gpu.decoder_api import (
    Gpu,
    GpuDecodeError,
    GpuDecoders,
    GpuUnavailableError,
    Surface,
    VideoEngine,
)
from tridetr.gpu.surface_layout import Copy2d, i420_planes, nv12_pitch
from tridetr.shm.packets import Packet, StreamInfo
from tridetr.shm.values import ColorMatrix, ColorRange

_log = logging.getLogger("tridetr.gpu")

_MOST_WAITING = 64  # packets without a picture yet

Lay = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class DevicePicture:
    """A picture on the GPU, valid until the decoder's next call.

    Attributes:
        packet: The packet that it comes from, for its times.
        width: Pixels, even.
        height: Pixels, even.
        color_range: Range of the samples.
        color_matrix: Matrix of the samples.
        lay: Called with an address and a stream; queues writing the picture there as dense I420.
        jpeg: The camera's own JPEG of the picture; None if there is none.
    """

    packet: Packet
    width: int
    height: int
    color_range: ColorRange
    color_matrix: ColorMatrix
    lay: Lay
    jpeg: bytes | None = None


class GpuVideo:
    """Decodes one H.264 or H.265 stream on the GPU.

    NVDEC hides damage instead of reporting it. So packets that the demuxer marked as damaged are not passed to it, and
    everything up to the next key frame is skipped, because no picture before it can be trusted.

    Without B-frames, each packet yields its picture immediately. If the stream announces that it reorders pictures, or
    turns out to do so (its presentation times go back), the decoder holds pictures back and returns them in display
    order.
    """

    every_packet = True

    def __init__(self, decoders: GpuDecoders, info: StreamInfo) -> None:
        """Create the decoder.

        Raises:
            GpuUnavailableError: A library is missing, or the stream is not supported.
        """
        if info.codec not in CODECS:
            raise GpuUnavailableError(
                f"{info.codec_name} is not supported (H.264, H.265 and MJPEG are)"
            )
        if info.rotation:
            raise GpuUnavailableError(
                "its pictures are rotated, which only decoding on the CPU supports"
            )
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
            GpuDecodeError: It is damaged or rejected; the next one may be fine.
            GpuUnavailableError: The GPU does not decode such a stream.
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
        """Switch the decoder to display order when a presentation time goes back, from the next key frame on."""
        last, self._last_pts = self._last_pts, packet.pts
        if self._reorders or last is None or packet.pts is None or packet.pts >= last:
            return
        if not packet.is_key:  # at a key frame, the clock of the stream was set back
            _log.info("the stream has B-frames: pictures are reordered for display from now on")
            self._reorders = True
            self._engine = self._open()
            self._waiting.clear()
            self._need_key_frame = True

    def _open(self) -> VideoEngine:
        return self._decoders.video(CODECS[self._info.codec], reorders=self._reorders)

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
    """Return a function that writes an NV12 surface as I420; odd sizes lose one row or column.

    Raises:
        ValueError: Its planes are not laid out as NV12.
    """
    pitch = nv12_pitch(surface.luma, surface.chroma, surface.width, surface.height)
    width, height = even_size(surface.width, surface.height)

    def lay(pointer: int, stream: int) -> None:
        y, u, v = i420_planes(pointer, width, height)
        gpu.copy(Copy2d(surface.luma, pitch, y, width, width, height), stream)
        gpu.split_chroma(surface.chroma, pitch, u, v, width // 2, height // 2, stream)

    return lay
