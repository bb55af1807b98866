"""Decodes JPEGs for every source that delivers MJPEG: to YUV planes, never to RGB."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

import av
from av.video.codeccontext import VideoCodecContext

from tridetr.capture.sources.base import CorruptFrameError, Picture
from tridetr.capture.sources.picture import picture_from

if TYPE_CHECKING:
    from av.video.stream import VideoStream

_log = logging.getLogger("tridetr.capture")

_PATIENCE = 15


class JpegDecoder:
    """Decodes JPEGs one by one; rejects damaged ones instead of showing them half grey.

    After 15 damaged JPEGs in a row it accepts damaged ones, because some cheap cameras never write
    an end marker.
    """

    def __init__(self) -> None:
        self._strict = True
        self._refused = 0
        self._codec = _codec(strict=True)

    def decode(self, jpeg: bytes | memoryview | av.Packet[VideoStream]) -> Picture:
        """Decode one JPEG.

        Returns:
            The picture; its planes are views that stay valid as long as they are referenced.

        Raises:
            CorruptFrameError: It is damaged, or not a JPEG.
        """
        packet = jpeg if isinstance(jpeg, av.Packet) else av.Packet(cast(bytes, jpeg))
        try:
            frames = self._codec.decode(packet) if packet.size else []
        except av.FFmpegError as error:
            self._refuse()
            raise CorruptFrameError(
                f"damaged JPEG of {packet.size} bytes: {error.strerror}"
            ) from None
        if not frames:
            raise CorruptFrameError(f"no picture in a JPEG of {packet.size} bytes")
        self._refused = 0
        return picture_from(frames[-1])

    def _refuse(self) -> None:
        self._refused += 1
        if self._strict and self._refused >= _PATIENCE:
            self._strict = False
            self._codec = _codec(strict=False)
            _log.warning("%d damaged JPEGs in a row: damaged ones are shown from now on", _PATIENCE)


def _codec(*, strict: bool) -> VideoCodecContext:
    codec = VideoCodecContext.create("mjpeg", "r")
    if strict:
        codec.options = {"err_detect": "explode"}
    assert isinstance(codec, VideoCodecContext)
    return codec
