"""MJPEG on the GPU: a camera's JPEGs decoded to I420 in device memory."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tridetr.capture.planes import even_size
from tridetr.gpu.decoder_api import GpuDecoders, GpuUnavailableError
from tridetr.gpu.gpu_video import DevicePicture
from tridetr.gpu.surface_layout import Subsampling, plan_jpeg, scratch_bytes
from tridetr.jpeg import complete_jpeg
from tridetr.shm.packets import Packet
from tridetr.shm.values import ColorMatrix, ColorRange

_ORIENTATION = 0x0112  # EXIF tag


class GpuJpeg:
    """Decodes the JPEGs of one camera. Each packet is one picture, so skipped ones are not decoded."""

    every_packet = False

    def __init__(self, decoders: GpuDecoders) -> None:
        """Create the decoder.

        Raises:
            GpuUnavailableError: Its library is missing.
        """
        self._gpu = decoders.gpu
        self._engine = decoders.jpeg()
        self._first = True

    def decode(self, packet: Packet) -> list[DevicePicture]:
        """Read a JPEG's headers; its pixels are decoded when the picture is written to a slot.

        Raises:
            GpuDecodeError: It is damaged.
            GpuUnavailableError: The GPU does not decode this kind of JPEG.
        """
        whole = complete_jpeg(memoryview(packet.data))
        if self._first:
            self._first = False
            if _is_turned(whole):
                raise GpuUnavailableError("the camera's JPEGs are rotated by their EXIF blocks")
        data = np.frombuffer(whole, np.uint8)
        shape = self._engine.shape(data)
        if shape.subsampling is Subsampling.OTHER:
            raise GpuUnavailableError("the camera's JPEGs are neither 4:2:0 nor 4:2:2")

        def lay(pointer: int, stream: int) -> None:
            scratch = self._gpu.scratch("jpeg", scratch_bytes(shape.width, shape.height))
            plan = plan_jpeg(shape.subsampling, shape.width, shape.height, pointer, scratch)
            self._engine.decode(data, plan.channels, stream)
            for copy in plan.copies:
                self._gpu.copy(copy, stream)

        width, height = even_size(shape.width, shape.height)
        return [
            DevicePicture(
                packet, width, height, ColorRange.FULL, ColorMatrix.BT601, lay, packet.data
            )
        ]


def _is_turned(jpeg: memoryview) -> bool:
    try:
        with Image.open(io.BytesIO(jpeg)) as image:
            return bool(image.getexif().get(_ORIENTATION, 1) != 1)
    except (OSError, Image.DecompressionBombError):
        return False  # the decoder, or the limit of max_pixels, will report what is wrong
