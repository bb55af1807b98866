"""Write clips of visits: from the camera's own packets if there are any, otherwise encoded from its pictures."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.video.reformatter import VideoReformatter

from tridetr.gateway.encode import Color, fill, samples
from tridetr.remux import Mp4File
from tridetr.shm.closing import Closing
from tridetr.shm.packets import Packet, PacketReader

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

logger = logging.getLogger("tridetr.recorder")

LONGEST_S = 300.0
STILLS_FPS = 15
_MOST_WAITING = 120  # pictures waiting to be encoded
_TURN = 64  # packets or pictures of one clip before the other clips get their turn
_X264 = {"preset": "veryfast", "crf": "26", "tune": "zerolatency"}
_TIME_BASE = Fraction(1, 90_000)
_LONGEST_SIDE = 1920  # longest side of an encoded clip in pixels
_COLORSPACES = {"BT601": 6, "BT709": 1, "BT2020": 9}  # as in H.264's VUI


@dataclass(slots=True)
class Span:
    """The time span of a clip, in monotonic capture times.

    Attributes:
        start_ns: Start; the first picture may be earlier, at a key frame.
        end_ns: End; it advances with each detection.
        is_final: Whether the end is final because the visit is over.
    """

    start_ns: int
    end_ns: int
    is_final: bool = False

    def has(self, capture_ns: int) -> bool:
        """Return whether a picture with this capture time belongs to the clip, as far as known now."""
        return capture_ns <= min(self.end_ns, self._limit)

    def is_over(self, capture_ns: int) -> bool:
        """Return whether a picture with this capture time is certain to be after the end of the clip."""
        return not self.has(capture_ns) and (self.is_final or capture_ns > self._limit)

    @property
    def _limit(self) -> int:
        return self.start_ns + round(LONGEST_S * 1e9)


class PacketClip(Closing):
    """A clip that is remuxed from the camera's own packets.

    Attributes:
        encoded: Always False.
        times: First and last capture time (Unix, ns); empty without a file.
        path: Path of the unfinished file; None before the first packet.
    """

    def __init__(
        self, instance: str, camera: str, span: Span, part: Callable[[], Path], largest: int
    ) -> None:
        self.encoded = False
        self.times: list[int] = []
        self.path: Path | None = None
        self._span = span
        self._part = part
        self._largest = largest
        self._file: Mp4File | None = None
        self._generation = 0
        self._next: Packet | None = None  # waits for the end of the span to advance
        self._reader = PacketReader(instance, camera)
        self._reader.seek(span.start_ns)

    def step(self) -> bool:
        """Write the available packets; return whether the clip is complete.

        Raises:
            OSError: The file cannot be written.
            TridetrError: The stream cannot be stored in a file.
        """
        for _ in range(_TURN):
            packet = self._next or self._reader.read()
            if packet is None:
                return False
            if self._span.is_over(packet.capture_monotonic_ns):
                return True
            if not self._span.has(packet.capture_monotonic_ns):
                self._next = packet
                return False
            self._next = None
            if self._file is None:
                if not packet.is_key:
                    continue
                self.path = self._part()
                self._file = Mp4File(self.path, packet.info)
                self._generation = packet.generation
                self.times = [packet.capture_unix_ns, packet.capture_unix_ns]
            elif packet.generation != self._generation or self._file.size > self._largest:
                # New stream parameters would need another file, and the size is limited
                return True
            self._file.put(packet)
            self.times[1] = packet.capture_unix_ns
        return False

    def finish(self) -> int:
        """Complete the file; return its number of pictures."""
        if self._file is None:
            return 0
        file, self._file = self._file, None
        file.close()
        return file.packets

    def close(self) -> None:
        """Close the ring and the file."""
        self._reader.close()
        if self._file is not None:
            _close_quietly(self._file.close)
            self._file = None


@dataclass(frozen=True, slots=True)
class Still:
    """One picture of a camera without packets: a JPEG that contains the frame's samples without colour conversion."""

    capture_ns: int
    unix_ns: int
    jpeg: bytes
    color: Color


class StillsClip(Closing):
    """A clip that is encoded from stills, in a low-priority thread; the attributes are those of :class:`PacketClip`."""

    def __init__(
        self, stills: Iterable[Still], span: Span, part: Callable[[], Path], largest: int
    ) -> None:
        self.encoded = True
        self.times: list[int] = []
        self.path: Path | None = None
        self._waiting = deque(stills)
        while len(self._waiting) > 1 and self._waiting[1].capture_ns <= span.start_ns:
            self._waiting.popleft()
        self._span = span
        self._part = part
        self._largest = largest
        self._size = self._frames = 0
        self._first_ns, self._last_pts = 0, -1
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._decoder = av.CodecContext.create("mjpeg", "r")
        self._scaler = VideoReformatter()

    def add(self, still: Still) -> bool:
        """Add the next picture; return whether there was room for it. May be called in another thread."""
        if len(self._waiting) >= _MOST_WAITING:
            return False
        self._waiting.append(still)
        return True

    def step(self) -> bool:
        """Encode the waiting pictures; return whether the clip is complete.

        Raises:
            OSError: The file cannot be written.
            av.FFmpegError: A picture cannot be encoded.
        """
        for _ in range(_TURN):
            if not self._waiting:
                return False
            still = self._waiting[0]
            if self._span.is_over(still.capture_ns) or self._size > self._largest:
                return True
            if not self._span.has(still.capture_ns):
                return False
            self._waiting.popleft()
            for picture in self._decoder.decode(av.Packet(still.jpeg)):
                self._encode(picture, still)
        return False

    def finish(self) -> int:
        """Complete the file; return its number of pictures."""
        container, stream, self._container = self._container, self._stream, None
        if container is None or stream is None:
            return 0
        try:
            container.mux(stream.encode(None))
        finally:
            container.close()
        return self._frames

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            _close_quietly(self._container.close)
            self._container = None

    def _encode(self, decoded: av.VideoFrame, still: Still) -> None:
        if self._container is None or self._stream is None:
            self._begin(decoded, still)
        assert self._container is not None
        assert self._stream is not None
        picture = _relabelled(decoded)
        if (picture.width, picture.height) != (self._stream.width, self._stream.height):
            size = (self._stream.width, self._stream.height)
            picture = self._scaler.reformat(picture, *size, threads=1)
        passed = (still.capture_ns - self._first_ns) / 1e9
        self._last_pts = max(self._last_pts + 1, round(passed / _TIME_BASE))
        picture.pts, picture.time_base = self._last_pts, _TIME_BASE
        for packet in self._stream.encode(picture):
            self._size += packet.size
            self._container.mux(packet)
        self._frames += 1
        self.times[1] = still.unix_ns

    def _begin(self, picture: av.VideoFrame, still: Still) -> None:
        self._first_ns = still.capture_ns
        self.times = [still.unix_ns, still.unix_ns]
        self.path = self._part()
        self._container = av.open(
            str(self.path), "w", format="mp4", options={"movflags": "faststart"}
        )
        stream = self._container.add_stream("libx264", rate=STILLS_FPS, options=_X264)
        scale = min(1.0, _LONGEST_SIDE / max(picture.width, picture.height))
        stream.width, stream.height = (
            max(2, round(side * scale / 2) * 2) for side in (picture.width, picture.height)
        )
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = _TIME_BASE
        context.gop_size = 2 * STILLS_FPS
        context.thread_count = 1
        context.color_range = 2 if still.color.full_range else 1
        context.colorspace = _COLORSPACES[still.color.matrix]
        self._stream = stream


def _relabelled(decoded: av.VideoFrame) -> av.VideoFrame:
    """Return the samples of a decoded JPEG without its colour space, which is not that of the samples."""
    picture = av.VideoFrame(decoded.width, decoded.height, "yuv420p")
    for to, plane in zip(picture.planes, decoded.planes, strict=True):
        fill(to, samples(plane))
    return picture


def clip_is_whole(path: Path, pictures: int) -> bool:
    """Return whether a finished file contains all its pictures, since FFmpeg does not report every failed write."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            found = sum(1 for packet in container.demux(stream) if packet.size)
            return bool(0 < pictures == found == stream.frames)
    except (av.FFmpegError, OSError, IndexError):
        return False


def _close_quietly(close: Callable[[], None]) -> None:
    try:
        close()
    except (OSError, av.FFmpegError, ValueError):
        logger.debug("an unfinished clip was discarded", exc_info=True)
