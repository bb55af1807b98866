"""H.264 and H.265 on the GPU: the counterpart of `sources.video.CpuVideo`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

from tridetr.capture.gpu.annexb import AnnexB
from tridetr.capture.gpu.api import Codec, GpuDecodeError, GpuUnavailableError, Surface
from tridetr.capture.gpu.picture import GpuPicture, lay_nv12
from tridetr.capture.planes import even_size
from tridetr.capture.sources.base import CorruptFrameError, Layout, Picture
from tridetr.capture.sources.picture import color_of
from tridetr.capture.sources.video import Decoded

if TYPE_CHECKING:
    from av.video.stream import VideoStream

    from tridetr.capture.gpu.api import GpuDecoders
    from tridetr.capture.sources.pump import Arrival

_log = logging.getLogger("tridetr.capture")

_CODECS = ("h264", "hevc")
_FORMATS = ("yuv420p", "yuvj420p")
_PATIENCE = 15  # so many refused packets in a row
_MOST_WAITING = 64  # packets without a picture yet


class GpuGaveUpError(GpuUnavailableError):
    """The GPU's decoder refuses this stream: open it again and decode on the CPU."""


class GpuVideo:
    """Decodes one network stream on the GPU.

    NVDEC hides damage instead of reporting it, so packets that FFmpeg marks as damaged never reach
    it: all up to the next key frame is skipped, as no picture before it can be trusted.
    """

    def __init__(self, decoders: GpuDecoders, stream: VideoStream) -> None:
        """Make the decoder.

        Raises:
            GpuUnavailableError: a library is missing, or the stream is nothing for it.
        """
        context = stream.codec_context
        if context.name not in _CODECS or context.pix_fmt not in _FORMATS:
            raise GpuUnavailableError(
                f"{context.name} {context.pix_fmt} is not decoded there (H.264 and H.265, 8 bit, 4:2:0 are)"
            )
        if context.sample_aspect_ratio not in (None, 0, 1):
            raise GpuUnavailableError("its pixels are not square")
        self._gpu = decoders.gpu
        try:
            self._annexb = AnnexB(context.name, context.extradata or b"")
        except ValueError as error:
            raise GpuUnavailableError(str(error)) from None
        self._context = context
        self._engine = decoders.video(cast(Codec, context.name), reorders=context.has_b_frames)
        self._waiting: dict[int, Arrival] = {}
        self._refused = 0
        self._need_key_frame = True

    def decode(self, arrival: Arrival) -> list[Decoded]:
        """Decode a packet; the pictures are valid until the next call (see `VideoDecoder`)."""
        packet = arrival.packet
        if arrival.restart:
            self._waiting.clear()
        if packet.is_corrupt:
            self._need_key_frame = True
        if self._need_key_frame:
            if packet.is_corrupt or not packet.is_keyframe:
                raise CorruptFrameError("damaged packet: waiting for the next key frame")
            self._need_key_frame = False
        self._waiting[arrival.index] = arrival
        while len(self._waiting) > _MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        try:
            data = self._annexb(bytes(packet), is_key=packet.is_keyframe)
            surfaces = self._engine.decode(data, arrival.index, discontinuity=arrival.restart)
            decoded = [self._decoded(surface, arrival) for surface in surfaces]
        except (GpuDecodeError, ValueError) as error:
            raise self._refuse(error) from None
        self._refused = 0
        return decoded

    def _decoded(self, surface: Surface, fed: Arrival) -> Decoded:
        width, height = even_size(surface.width, surface.height)
        lay_all = lay_nv12(self._gpu, surface)

        def lay(pointer: int, stream: int) -> None:
            self._engine.before(stream)
            lay_all(pointer, stream)

        color_range, matrix = color_of(
            self._context.pix_fmt or "",
            self._context.color_range,
            self._context.colorspace,
            height,
        )
        picture = Picture(
            Layout.I420,
            (),
            width,
            height,
            color_range,
            matrix,
            device=GpuPicture(self._gpu, width, height, lay),
        )
        return Decoded(self._waiting.pop(surface.index, fed), lambda: picture)

    def _refuse(self, error: Exception) -> Exception:
        self._need_key_frame = True
        self._refused += 1
        if self._refused >= _PATIENCE:
            return GpuGaveUpError(f"the GPU refused {_PATIENCE} packets, the last with: {error}")
        return CorruptFrameError(f"damaged packet: {error}")
