"""Decodes a network stream of any codec; each picture keeps the arrival time of its packet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import av

from tridetr.capture.sources.av import decoder_options
from tridetr.capture.sources.base import CorruptFrameError, Picture
from tridetr.capture.sources.picture import picture_from
from tridetr.capture.sources.pump import Arrival

if TYPE_CHECKING:
    from av.video.stream import VideoStream


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture and the packet that it belongs to.

    Attributes:
        arrival: The packet, for its times.
        picture: Returns the picture; None if it is damaged and must not be shown.
        is_doubtful: Whether it can be built on a damaged picture.
    """

    arrival: Arrival
    picture: Callable[[], Picture] | None
    is_doubtful: bool = False


_DOUBTFUL_NS = 10_000_000_000  # after a damaged picture, in a stream without key frames


class VideoDecoder(Protocol):
    """Decodes one stream."""

    def decode(self, arrival: Arrival) -> list[Decoded]:
        """Decode a packet.

        Returns:
            The pictures that are complete now, in display order.

        Raises:
            CorruptFrameError: The packet is damaged; continue with the next one.
        """
        ...


class CpuVideo:
    """Decodes with FFmpeg."""

    def __init__(self, stream: VideoStream, max_pixels: int) -> None:
        codec = stream.codec_context
        codec.options = decoder_options(max_pixels)
        # Frame threads would delay each picture, and with slice threads FFmpeg does not report damaged pictures
        codec.thread_type = "NONE"
        codec.copy_opaque = True  # carries the arrival through the decoder
        self._codec = codec
        self._doubtful_until_ns = 0
        self._rotation: float | None = None

    def decode(self, arrival: Arrival) -> list[Decoded]:
        """Decode a packet (see `VideoDecoder`)."""
        if arrival.restart:
            self._codec.flush_buffers()
        arrival.packet.opaque = arrival
        try:
            frames = self._codec.decode(arrival.packet)
        except av.FFmpegError as error:
            self._doubtful_until_ns = arrival.monotonic_ns + _DOUBTFUL_NS
            raise CorruptFrameError(f"damaged packet: {error.strerror}") from None
        finally:
            # The frames have their own references; a packet that refers to itself would never be freed
            arrival.packet.opaque = None
        return [self._decoded(frame, arrival) for frame in frames]

    def decode_alone(self, arrival: Arrival) -> list[Decoded]:
        """Decode a single key frame and flush the decoder, which would hold it back in streams with B-frames."""
        self._codec.flush_buffers()
        decoded = self.decode(arrival)
        try:
            frames = self._codec.decode(None)
        except av.FFmpegError as error:
            raise CorruptFrameError(f"damaged packet: {error.strerror}") from None
        finally:
            self._codec.flush_buffers()
        return [*decoded, *(self._decoded(frame, arrival) for frame in frames)]

    def _decoded(self, frame: av.VideoFrame, fed: Arrival) -> Decoded:
        arrival = frame.opaque if isinstance(frame.opaque, Arrival) else fed
        if self._rotation is None:
            self._rotation = frame.rotation
        # A lost packet can look like a rotation, which would stay; if it is a real one, the camera is opened again
        if frame.is_corrupt or frame.rotation != self._rotation:
            self._doubtful_until_ns = arrival.monotonic_ns + _DOUBTFUL_NS
            return Decoded(arrival, None)
        if frame.key_frame:
            self._doubtful_until_ns = 0
        aspect = self._codec.sample_aspect_ratio
        is_doubtful = arrival.monotonic_ns < self._doubtful_until_ns
        return Decoded(arrival, lambda: picture_from(frame, aspect), is_doubtful)


class Undecoded:
    """Passes on packets that the gpu process decodes."""

    def decode(self, arrival: Arrival) -> list[Decoded]:
        """Return the packet without a picture (see `VideoDecoder`)."""
        return [Decoded(arrival, _decoded_elsewhere)]


def _decoded_elsewhere() -> Picture:
    raise CorruptFrameError("this camera's pictures are decoded by the gpu process")
