"""Decodes a network stream of any codec; each picture keeps the arrival time of its packet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import av
import av.logging
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from tridetr.capture.sources.av import decoder_options, log_captured
from tridetr.capture.sources.base import CorruptFrameError, Picture
from tridetr.capture.sources.picture import picture_from
from tridetr.capture.sources.pump import Arrival
from tridetr.capture.sources.rotation import CheckedRotation

if TYPE_CHECKING:
    from av.video.stream import VideoStream


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture and the packet that it belongs to.

    Attributes:
        arrival: The packet, for its times.
        picture: Returns the picture; None if it is damaged and must not be shown.
        is_doubtful: Whether it can be built on a damaged or a missing picture.
    """

    arrival: Arrival
    picture: Callable[[], Picture] | None
    is_doubtful: bool = False


_SURE_KEY_FRAMES = 2  # a stream that is refreshed in another way can start with one, too
_DOUBTFUL_NS = 10_000_000_000  # at least, after a damaged picture, in a stream without key frames
# From the second one on, all that the first one began to refresh is refreshed
_SURE_REFRESHES = 2
_NO_KEY_FRAME_NS = 300_000_000_000  # without one for this time, a stream counts as one without them
# Streams can be refreshed without key frames, and FFmpeg leaves out what is not complete yet. Decoders of other codecs
# fill what is missing with grey, without an error.
_REFRESHED_CODECS = {"h264", "hevc"}
# FFmpeg marks the damaged pictures of H.264, but with H.265 it only logs these errors
_DAMAGE = (
    "Could not find ref with POC",
    "Error constructing the frame RPS",
    "Zero refs in the frame RPS",
    "First slice in a frame missing",
    "Two slices reporting being the first",
    "Invalid slice segment address",
    "The cu_qp_delta",
    "CABAC_MAX_BIN",
)


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
        self._scaler = VideoReformatter()
        # From the first damaged packet to the newest one, until no trace of them is left; otherwise empty
        self._damaged = range(0)
        self._damaged_ns = 0  # arrival of the newest one
        self._refreshes = 0  # after it
        self._key_ns: int | None = None  # arrival of the newest key frame, or of the first packet
        self._needs_key_frame = False  # to show anything
        self._rotation = CheckedRotation(codec.name)
        self._key_frames = 0  # in a row, of the packets that count as key frames

    @property
    def has_key_frames(self) -> bool:
        """Whether packets that count as key frames can be decoded alone.

        FFmpeg's parser takes recovery points for key frames, too; with intra refresh, they are no complete pictures.
        """
        return self._key_frames >= _SURE_KEY_FRAMES

    def decode(self, arrival: Arrival) -> list[Decoded]:
        """Decode a packet (see `VideoDecoder`)."""
        if arrival.restart:
            self._codec.flush_buffers()
        packet = arrival.packet
        if (arrival.restart or self._key_ns is None) and not packet.is_keyframe:
            self._needs_key_frame = self._codec.name not in _REFRESHED_CODECS
            self._doubt(arrival, arrival.index - 1)
        if self._key_ns is None:
            self._key_ns = arrival.monotonic_ns
        packet.opaque = arrival
        try:
            with log_captured(av.logging.ERROR) as logged:
                frames = self._codec.decode(packet)
        except av.FFmpegError as error:
            self._doubt(arrival)
            raise CorruptFrameError(f"damaged packet: {error.strerror}") from None
        finally:
            # The frames have their own references; a packet that refers to itself would never be freed
            packet.opaque = None
        is_reported = any(text.startswith(_DAMAGE) for _, _, text in logged)
        if is_reported or packet.is_corrupt:
            packet.is_corrupt = True
            self._doubt(arrival)
        if is_reported and not frames:  # FFmpeg leaves out pictures whose references are missing
            raise CorruptFrameError("damaged packet: parts of the stream are missing")
        return self._shown(frames, arrival)

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
        if not decoded and not frames:
            self._key_frames = 0
        return [*decoded, *self._shown(frames, arrival)]

    def _shown(self, frames: list[av.VideoFrame], fed: Arrival) -> list[Decoded]:
        """Return the pictures of frames, without those that have no key frame to be built on."""
        shown = []
        for frame in frames:
            self._needs_key_frame = self._needs_key_frame and not frame.key_frame
            if not self._needs_key_frame:
                shown.append(self._decoded(frame, fed))
        return shown

    def _decoded(self, frame: av.VideoFrame, fed: Arrival) -> Decoded:
        arrival = frame.opaque if isinstance(frame.opaque, Arrival) else fed
        if arrival.packet.is_keyframe:
            self._key_frames = self._key_frames + 1 if frame.key_frame else 0
        if frame.key_frame:
            self._key_ns = arrival.monotonic_ns
        rotation = self._rotation.of(frame)
        if frame.is_corrupt or rotation is None:
            self._doubt(arrival)
            return Decoded(arrival, None)
        if arrival.packet.is_corrupt:
            return Decoded(arrival, None)
        if self._damaged and arrival.index >= self._damaged.stop:
            # FFmpeg's parser takes recovery points for key frames; some encoders mark no intra pictures at all
            self._refreshes += arrival.packet.is_keyframe or frame.pict_type == PictureType.I
            if frame.key_frame or self._is_refreshed(arrival.monotonic_ns):
                self._damaged = range(0)
        aspect, scaler = self._codec.sample_aspect_ratio, self._scaler
        # Pictures come in display order: one that comes before a damaged picture can be built on it all the same
        is_doubtful = bool(self._damaged) and arrival.index >= self._damaged.start
        return Decoded(arrival, lambda: picture_from(frame, scaler, aspect, rotation), is_doubtful)

    def _is_refreshed(self, now_ns: int) -> bool:
        """Return whether pictures without a key frame show no traces of the damaged ones any more.

        In a stream with key frames, only the next one ends that, however far away it is. A stream without them is
        refreshed bit by bit: between recovery points if it has them, otherwise at an unknown pace.
        """
        assert self._key_ns is not None
        has_key_frames = now_ns - self._key_ns < _NO_KEY_FRAME_NS
        is_complete = self._refreshes >= _SURE_REFRESHES or not has_key_frames
        return is_complete and now_ns - self._damaged_ns >= _DOUBTFUL_NS

    def _doubt(self, arrival: Arrival, index: int | None = None) -> None:
        """Note that a packet is damaged, or a missing one before it, which has this index."""
        index = arrival.index if index is None else index
        known = self._damaged or range(index, index)
        self._damaged = range(min(known.start, index), max(known.stop, index + 1))
        self._damaged_ns = arrival.monotonic_ns
        self._refreshes = 0


class Undecoded:
    """Passes on packets that the gpu process decodes."""

    def decode(self, arrival: Arrival) -> list[Decoded]:
        """Return the packet without a picture (see `VideoDecoder`)."""
        return [Decoded(arrival, _decoded_elsewhere)]


def _decoded_elsewhere() -> Picture:
    raise CorruptFrameError("this camera's pictures are decoded by the gpu process")
