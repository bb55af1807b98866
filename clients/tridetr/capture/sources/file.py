"""Video file source: plays in real time like a camera, or delivers every frame in media time."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from fractions import Fraction
from typing import TYPE_CHECKING

import av
from av.video.reformatter import VideoReformatter

from tridetr.capture.sources.av import decoder_options, explain, frame_rate, open_video, packets
from tridetr.capture.sources.base import (
    CorruptFrameError,
    Grab,
    NoPictureYetError,
    Source,
    SourceEndedError,
    SourceInfo,
    SourceLostError,
)
from tridetr.capture.sources.blocking import BlockingCalls, StalledError
from tridetr.capture.sources.jpeg_decoder import JpegDecoder
from tridetr.capture.sources.picture import picture_from
from tridetr.capture.sources.rotation import signalled
from tridetr.config import CameraSection
from tridetr.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from av.container import InputContainer
    from av.video.stream import VideoStream

    from tridetr.capture.packets import PacketSink

_log = logging.getLogger("tridetr.capture")

_SECOND_NS = 1_000_000_000
_FALLBACK_FPS = 25.0
_TOO_LATE_NS = 2 * _SECOND_NS  # then, after a suspend or a stall, playback continues from here
_LONGEST_PAUSE_NS = 10 * _SECOND_NS  # a longer one is a damaged timestamp
_MAX_THREADS = 4
_STALLED = "a FIFO without a writer, or a network share whose server does not answer"


class FileSource(Source):
    """Reads a video file; frame numbers are indexes in the file, and keep growing when it loops."""

    def __init__(
        self, section: CameraSection, stop: threading.Event, packets: PacketSink | None = None
    ) -> None:
        self._sink = packets
        self._section = section
        self._stop = stop
        self._calls = BlockingCalls(stop)
        self._opening: Future[tuple[InputContainer, VideoStream, int]] | None = None
        self._reading: Future[av.VideoFrame | av.Packet[VideoStream] | None] | None = None
        self._container: InputContainer | None = None
        self._frames: Iterator[av.VideoFrame | av.Packet[VideoStream]] = iter(())
        self._jpeg: JpegDecoder | None = None
        self._scaler = VideoReformatter()
        self._pixel_aspect: Fraction | None = None
        self._turned = 0  # degrees anticlockwise, as signalled last
        self._next_number = 0
        self._frames_in_pass = 0
        self._step_ns = round(_SECOND_NS / _FALLBACK_FPS)
        self._base_ns = 0  # monotonic time of media time 0
        self._unix_base_ns = 0
        self._last_ns = -1  # media time of the last frame; keeps growing when the file loops
        self._zero_ns: int | None = None  # the file's own time at media time 0
        self._pending: Grab | None = None

    def open(self) -> SourceInfo:
        """Open the file (see `Source`)."""
        stream = self._open_pass()
        fps = frame_rate(stream)
        self._step_ns = round(_SECOND_NS / (fps or _FALLBACK_FPS))
        self._base_ns = time.monotonic_ns()
        self._unix_base_ns = time.time_ns()
        self._last_ns = -1
        how = "in real time" if self._section.realtime else "without loss"
        return SourceInfo(
            kind="file",
            description=(
                f"{stream.codec_context.name} {stream.width}x{stream.height} at {fps:g} fps, {how}"
            ),
            capture_clock="playback" if self._section.realtime else "media",
            width=stream.width,
            height=stream.height,
            fps=fps,
            live=self._section.realtime,
        )

    def next(self, timeout_s: float) -> Grab | None:
        """Return the next frame when it is due (see `Source`)."""
        if self._pending is None:
            self._pending = self._read()
        if self._section.realtime:
            wait_ns = self._pending.monotonic_ns - time.monotonic_ns()
            if wait_ns < -_TOO_LATE_NS:
                self._base_ns -= wait_ns
                self._unix_base_ns -= wait_ns
            elif wait_ns > 0:
                self._stop.wait(min(timeout_s, wait_ns / _SECOND_NS))
                if self._pending.monotonic_ns > time.monotonic_ns():
                    return None
        grab, self._pending = self._pending, None
        return grab

    def close(self) -> None:
        """Close the file."""
        self._frames = iter(())
        self._pending = None
        container, self._container = self._container, None
        # A read that has not returned still needs the container, which is freed with the read's generator
        reading, self._reading = self._reading, None
        if container is not None and (reading is None or reading.done()):
            container.close()

    def _open_pass(self) -> VideoStream:
        path = self._section.source.text
        if self._opening is None:
            self._opening = self._calls.begin(
                lambda: _open(path, with_rotation=self._sink is not None)
            )
        try:
            opened = self._calls.wait(self._opening, self._section.timeout_s)
        except StalledError as stalled:
            raise SourceError(f"cannot open {path}: {stalled}; {_STALLED}") from None
        except SourceError:
            self._opening = None
            raise
        self._opening = None
        self._container, stream, rotation = opened
        codec = stream.codec_context
        self._pixel_aspect = stream.sample_aspect_ratio
        self._zero_ns = None
        self._turned = 0
        self._frames_in_pass = 0
        if self._sink is not None:
            self._sink.open(stream, rotation=rotation)
        if codec.name == "mjpeg":
            if self._jpeg is None:
                self._jpeg = JpegDecoder()
            self._frames = self._packets(self._container, stream)
        else:
            self._jpeg = None
            codec.options = decoder_options(self._section.max_pixels)
            codec.thread_type = "AUTO"
            codec.thread_count = min(_MAX_THREADS, os.cpu_count() or 1)
            self._frames = self._decoded(self._container, stream)
        return stream

    def _packets(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[av.VideoFrame | av.Packet[VideoStream]]:
        try:
            for packet in packets(container, stream):
                if self._sink is not None:
                    media_ns = self._packet_time(packet)
                    self._sink.put(packet, self._base_ns + media_ns, self._unix_base_ns + media_ns)
                yield packet
        except av.FFmpegError as error:
            _log.warning(
                "%s: damaged, so the file ends here: %s", self._section.source, explain(error)
            )

    def _decoded(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[av.VideoFrame | av.Packet[VideoStream]]:
        codec = stream.codec_context
        ready: deque[av.VideoFrame] = deque()
        for packet in self._packets(container, stream):
            assert isinstance(packet, av.Packet)
            try:
                ready.extend(codec.decode(packet))
            except av.FFmpegError:
                yield packet  # stands for the frame that could not be decoded
            while ready:
                yield ready.popleft()
        try:
            ready.extend(codec.decode(None))
        except av.FFmpegError as error:
            _log.debug("%s: end of stream: %s", self._section.source, error)
        yield from ready

    def _read(self) -> Grab:
        started = time.perf_counter_ns()
        item = self._next_item()
        if item is None:
            self._next_pass()
            item = self._next_item()
            if item is None:
                raise SourceLostError(f"{self._section.source}: no frame in it can be decoded")
        number = self._next_number
        self._next_number += 1
        self._frames_in_pass += 1
        media_ns = self._media_time(item)
        if isinstance(item, av.Packet):
            if self._jpeg is None:
                raise CorruptFrameError(f"frame {number} is damaged")
            decoder, packet = self._jpeg, item
            return Grab(
                number,
                self._base_ns + media_ns,
                self._unix_base_ns + media_ns,
                lambda: decoder.decode(packet),
                memoryview(packet),
            )
        frame = item
        if frame.is_corrupt:
            raise CorruptFrameError(f"frame {number} is damaged")
        degrees = signalled(frame, is_turned=bool(self._turned))
        self._turned = rotation = self._turned if degrees is None else degrees
        return Grab(
            number,
            self._base_ns + media_ns,
            self._unix_base_ns + media_ns,
            lambda: picture_from(frame, self._scaler, self._pixel_aspect, rotation),
            decode_ns=time.perf_counter_ns() - started,
        )

    def _next_item(self) -> av.VideoFrame | av.Packet[VideoStream] | None:
        frames = self._frames
        if self._reading is None:
            self._reading = self._calls.begin(lambda: next(frames, None))
        try:
            item = self._calls.wait(self._reading, self._section.timeout_s)
        except StalledError as stalled:
            raise NoPictureYetError(f"{self._section.source}: {stalled}; {_STALLED}") from None
        self._reading = None
        return item

    def _next_pass(self) -> None:
        if self._frames_in_pass == 0:
            raise SourceLostError(f"{self._section.source}: no frame in it can be decoded")
        if not self._section.loop:
            raise SourceEndedError(f"{self._section.source} has ended")
        self.close()
        self._open_pass()

    def _packet_time(self, packet: av.Packet[VideoStream]) -> int:
        """Return the media time [ns] that a packet's picture will have, before it is decoded."""
        next_ns = max(0, self._last_ns + self._step_ns)
        at = packet.pts if packet.pts is not None else packet.dts
        if at is None or packet.time_base is None:
            return next_ns
        at_ns = at * packet.time_base.numerator * _SECOND_NS // packet.time_base.denominator
        if self._zero_ns is None:
            self._zero_ns = at_ns - (next_ns if self._last_ns >= 0 else 0)
        return max(0, at_ns - self._zero_ns)

    def _media_time(self, item: av.VideoFrame | av.Packet[VideoStream]) -> int:
        """Return the media time [ns]; it always grows, and damaged timestamps cause no long pause."""
        next_ns = self._last_ns + self._step_ns if self._last_ns >= 0 else 0
        if item.pts is not None and item.time_base is not None:
            base = item.time_base
            pts_ns = item.pts * base.numerator * _SECOND_NS // base.denominator
            if self._zero_ns is None:
                self._zero_ns = pts_ns - next_ns
            jump_ns = pts_ns - self._zero_ns - self._last_ns
            if 0 < jump_ns <= max(_LONGEST_PAUSE_NS, 3 * self._step_ns):
                next_ns = pts_ns - self._zero_ns
            else:
                self._zero_ns = pts_ns - next_ns
        self._last_ns = next_ns
        return next_ns


def _open(path: str, *, with_rotation: bool) -> tuple[InputContainer, VideoStream, int]:
    """Open a file; return its container, its video stream and its rotation (0 unless requested)."""
    # Only for a regular file, which can be read twice
    rotation = _rotation(path) if with_rotation and os.path.isfile(path) else 0  # noqa: PTH113
    # "file:" keeps FFmpeg from reading a colon in the name as a protocol
    return *open_video(f"file:{path}", shown=path, options={}, timeout_s=None), rotation


def _rotation(path: str) -> int:
    """Return by how many degrees clockwise a file's pictures must be turned to be upright."""
    try:
        with av.open(f"file:{path}") as container:
            frame = next(container.decode(container.streams.video[0]), None)
            return -frame.rotation % 360 if frame is not None else 0
    except (av.FFmpegError, IndexError):
        return 0
