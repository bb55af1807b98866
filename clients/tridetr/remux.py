"""Remux packets of a camera's packet ring into MP4, without decoding or encoding them."""

from __future__ import annotations

import errno
import io
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av

from tridetr.errors import TridetrError
from tridetr.shm.closing import Closing
from tridetr.shm.packets import Packet, StreamInfo, VideoCodec

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

CLOCK = 90_000  # ticks per second
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
_LONGEST_STEP = 10 * CLOCK
_DEFAULT_FPS = 25.0
# PyAV can only add a stream for foreign packets by copying a stream that it has read. These templates contain one
# picture of a single colour; the stream's parameters are then replaced.
_TEMPLATES = {
    VideoCodec.H264: (
        "h264",
        "000000016742c00ada7a1000000300100000030328f1226a0000000168ce0fc8000000016588843a2780",
    ),
    VideoCodec.HEVC: (
        "hevc",
        "0000000140010c01ffff01600000030090000003000003001eba02400000000142010101600000030090000003000003001ea0"
        "20810596e92930b9a02000000300200000030321000000014401c073c089000000012801ac760ddd20bc",
    ),
}


# Errors that the bytes and timestamps of a malicious camera can cause
_ERRORS = (av.FFmpegError, ArithmeticError, ValueError)


class StreamDamagedError(TridetrError):
    """A camera's video cannot be stored as MP4."""


def can_remux(info: StreamInfo) -> bool:
    """Return whether a stream can be remuxed to MP4: H.264 or H.265, with its parameter sets."""
    return info.codec in _TEMPLATES and bool(info.extradata)


def add_stream(container: OutputContainer, info: StreamInfo) -> VideoStream:
    """Add a stream of the packet ring to a container.

    Args:
        container: a container that was not written to yet.
        info: an H.264 or H.265 stream.
    """
    form, picture = _TEMPLATES[info.codec]
    with av.open(io.BytesIO(bytes.fromhex(picture)), format=form) as template:
        stream: VideoStream = container.add_stream_from_template(template.streams.video[0])
    context = stream.codec_context
    context.extradata, context.width, context.height = info.extradata, info.width, info.height
    if info.codec is VideoCodec.HEVC:
        context.codec_tag = "hvc1"  # the only tag that Apple's players accept
    if info.rotation:
        stream.set_display_rotation(-info.rotation)
    stream.time_base = Fraction(1, CLOCK)
    return stream


class PacketMuxer(Closing):
    """Writes the packets of one stream to a container.

    Timestamps start at 0 and increase strictly, even if the camera's own timestamps jump.
    """

    def __init__(self, container: OutputContainer, info: StreamInfo) -> None:
        """Add the stream.

        Args:
            container: A new MP4 container; :meth:`close` closes it.
            info: The stream (see :func:`can_remux`).

        Raises:
            StreamDamagedError: The parameter sets are damaged; the container is closed.
        """
        try:
            _check_parameters(info)
            self._stream = add_stream(container, info)
        except BaseException:
            container.close()
            raise
        self._container = container
        self._info = info
        self._step = round(CLOCK / (info.fps or _DEFAULT_FPS))
        self._shift: int | None = None
        self._last: tuple[int, int] = (0, 0)  # dts, capture time [ns]

    def put(self, packet: Packet) -> None:
        """Append a packet.

        Raises:
            StreamDamagedError: FFmpeg cannot store it.
            OSError: The container cannot be written, for example because the disk is full.
        """
        try:
            dts, pts = self._times(packet)
            out = av.Packet(packet.data)
            out.stream = self._stream
            out.time_base = Fraction(1, CLOCK)
            out.dts, out.pts, out.is_keyframe = dts, pts, packet.is_key
            out.duration = self._scale(packet.duration) if packet.duration else self._step
            self._container.mux_one(out)
        except _ERRORS as error:
            if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
                raise
            raise StreamDamagedError(f"a packet cannot be stored in an MP4: {error}") from None

    def close(self) -> None:
        """Finish and close the container.

        Raises:
            OSError: The container cannot be written.
        """
        self._container.close()

    def _times(self, packet: Packet) -> tuple[int, int]:
        if packet.dts is not None and packet.pts is not None:
            dts, pts = self._scale(packet.dts), self._scale(packet.pts)
        else:
            dts = pts = packet.capture_monotonic_ns * CLOCK // 1_000_000_000
        last, captured = self._last
        if self._shift is None:
            self._shift = -dts
        elif not 0 < dts + self._shift - last <= _LONGEST_STEP:
            passed = (packet.capture_monotonic_ns - captured) * CLOCK // 1_000_000_000
            self._shift = last + max(1, passed) - dts
        self._last = dts + self._shift, packet.capture_monotonic_ns
        return dts + self._shift, max(pts, dts) + self._shift

    def _scale(self, time: int) -> int:
        numerator, denominator = self._info.time_base
        return time * numerator * CLOCK // denominator


class Mp4File(Closing):
    """An MP4 file of a camera's packets, with its index at the start so that playback can begin during the download.

    Attributes:
        packets: Number of packets written.
        size: Total size of the packets in bytes.
    """

    def __init__(self, path: Path, info: StreamInfo) -> None:
        """Create the file; it is complete when :meth:`close` returns.

        Raises:
            OSError: The file cannot be created.
            StreamDamagedError: The parameter sets are damaged.
        """
        self.packets = self.size = 0
        options = {"movflags": "faststart"}
        container = av.open(str(path), "w", format="mp4", options=options)
        self._muxer = PacketMuxer(container, info)

    def put(self, packet: Packet) -> None:
        """Append a packet; raises the same errors as :meth:`PacketMuxer.put`."""
        self._muxer.put(packet)
        self.packets += 1
        self.size += len(packet.data)

    def close(self) -> None:
        """Finish and close the file.

        Raises:
            OSError: The file cannot be written.
        """
        self._muxer.close()


def _check_parameters(info: StreamInfo) -> None:
    """Validate the parameter sets with a decoder: FFmpeg's MP4 muxer accepts counts of up to four billion."""
    decoder = av.CodecContext.create(_TEMPLATES[info.codec][0], "r")
    decoder.extradata = info.extradata
    decoder.options = {"err_detect": "explode"}
    decoder.thread_count = 1
    try:
        decoder.open()
    except _ERRORS as error:
        raise StreamDamagedError(f"the parameter sets of the video are damaged: {error}") from None
