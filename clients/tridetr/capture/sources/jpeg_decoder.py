"""Decodes JPEGs for every source that delivers MJPEG: to YUV planes, never to RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import av
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter

from tridetr.capture.sources.base import CorruptFrameError, Picture
from tridetr.capture.sources.picture import picture_from

if TYPE_CHECKING:
    from av.video.stream import VideoStream

_SCAN = b"\xff\xda"
# A progressive JPEG has about ten. Each takes a few bytes, and up to the time of a whole picture to decode
_MOST_SCANS = 100


class JpegDecoder:
    """Decodes JPEGs one by one; rejects damaged ones instead of showing them half grey.

    A missing end marker, or bytes after it, are no damage: some cheap cameras send such JPEGs.
    """

    def __init__(self) -> None:
        codec = VideoCodecContext.create("mjpeg", "r")
        codec.options = {"err_detect": "explode"}
        assert isinstance(codec, VideoCodecContext)
        self._codec = codec
        self._scaler = VideoReformatter()

    def decode(self, jpeg: bytes | memoryview | av.Packet[VideoStream]) -> Picture:
        """Decode one JPEG.

        Returns:
            The picture; its planes are views that stay valid as long as they are referenced.

        Raises:
            CorruptFrameError: It is damaged, not a JPEG, or cannot be converted.
        """
        packet = jpeg if isinstance(jpeg, av.Packet) else av.Packet(cast(bytes, jpeg))
        scans = bytes(packet).count(_SCAN)
        if scans > _MOST_SCANS:
            raise CorruptFrameError(f"a JPEG of {packet.size} bytes with {scans} scans")
        try:
            frames = self._codec.decode(packet) if packet.size else []
        except av.FFmpegError as error:
            raise CorruptFrameError(
                f"damaged JPEG of {packet.size} bytes: {error.strerror}"
            ) from None
        if not frames:
            raise CorruptFrameError(f"no picture in a JPEG of {packet.size} bytes")
        return picture_from(frames[-1], self._scaler)
