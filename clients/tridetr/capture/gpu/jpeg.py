"""MJPEG on the GPU, for every source that delivers it; what the GPU cannot do goes to the CPU."""

from __future__ import annotations

import io
import logging
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tridetr.capture.gpu.api import Gpu, GpuDecodeError, GpuUnavailableError, JpegEngine, JpegShape
from tridetr.capture.gpu.layout import Subsampling, plan_jpeg, scratch_bytes
from tridetr.capture.gpu.picture import GpuPicture
from tridetr.capture.planes import even_size
from tridetr.capture.sources.base import CorruptFrameError, Layout, Picture, Plane
from tridetr.capture.sources.jpeg_decoder import JpegDecoder
from tridetr.jpeg import complete_jpeg
from tridetr.shm.frames import ColorMatrix, ColorRange

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream

    from tridetr.capture.gpu.api import GpuDecoders

_log = logging.getLogger("tridetr.capture")

_ORIENTATION = 0x0112  # EXIF tag
_PATIENCE = 15  # so many refused in a row, and the CPU goes on


class GpuJpegDecoder:
    """Decodes JPEGs one by one, as `sources.jpeg.JpegDecoder` does, but into device memory.

    A camera whose JPEGs the GPU's decoder does not take (4:4:4, grey, or all of them refused) is
    decoded on the CPU from then on, which is said once.
    """

    def __init__(self, decoders: GpuDecoders) -> None:
        self._cpu = JpegDecoder()
        self._gpu: Gpu = decoders.gpu
        self._engine: JpegEngine | None = None
        self._refused = 0
        self._first = True
        try:
            self._engine = decoders.jpeg()
        except GpuUnavailableError as error:
            self._give_up(str(error))

    def decode(self, jpeg: bytes | memoryview | av.Packet[VideoStream]) -> Picture:
        """Read a JPEG's headers; its pixels are decoded where the publisher lays them.

        Raises:
            CorruptFrameError: it is damaged or no JPEG at all.
        """
        if self._engine is None:
            return self._cpu.decode(jpeg)
        # A copy of some 100 kB: the decoder shall not read a buffer that the driver has back.
        whole = complete_jpeg(memoryview(bytes(memoryview(jpeg))))
        if self._first:
            self._first = False
            if _is_turned(whole):
                self._give_up("the camera's JPEGs are turned by their EXIF blocks")
                return self._cpu.decode(jpeg)
        data = np.frombuffer(whole, np.uint8)
        try:
            shape = self._engine.shape(data)
        except GpuDecodeError as error:
            raise self._refuse(error) from None
        if shape.subsampling is Subsampling.OTHER:
            self._give_up("the camera's JPEGs are neither 4:2:0 nor 4:2:2")
            return self._cpu.decode(jpeg)
        width, height = even_size(shape.width, shape.height)
        lay = partial(self._lay, self._engine, data, shape)
        return Picture(
            Layout.I420,
            (),
            shape.width,
            shape.height,
            ColorRange.FULL,
            ColorMatrix.BT601,
            device=GpuPicture(self._gpu, width, height, lay),
        )

    def _lay(
        self, engine: JpegEngine, data: Plane, shape: JpegShape, pointer: int, stream: int
    ) -> None:
        width, height = shape.width, shape.height
        scratch = self._gpu.scratch("jpeg", scratch_bytes(width, height))
        plan = plan_jpeg(shape.subsampling, width, height, pointer, scratch)
        try:
            engine.decode(data, plan.channels, stream)
        except GpuDecodeError as error:
            raise self._refuse(error) from None
        self._refused = 0
        for copy in plan.copies:
            self._gpu.copy(copy, stream)

    def _refuse(self, error: GpuDecodeError) -> CorruptFrameError:
        self._refused += 1
        if self._refused >= _PATIENCE:
            self._give_up(f"it refused {_PATIENCE} JPEGs in a row, the last one with: {error}")
        return CorruptFrameError(f"damaged JPEG: {error}")

    def _give_up(self, reason: str) -> None:
        self._engine = None
        _log.warning("no JPEG decoding on the GPU: %s; the CPU decodes", reason)


def _is_turned(jpeg: memoryview) -> bool:
    try:
        with Image.open(io.BytesIO(jpeg)) as image:
            return bool(image.getexif().get(_ORIENTATION, 1) != 1)
    except OSError:
        return False  # the decoder says what is wrong with it
