"""The camera's own video as fragmented MP4: FFmpeg's muxer (PyAV), nothing is encoded."""

from __future__ import annotations

import contextlib
import io
from fractions import Fraction

import av

from tridetr.errors import GatewayError
from tridetr.shm.closing import Closing
from tridetr.shm.packets import Packet, StreamInfo, VideoCodec

# What the bytes and times of a hostile camera lead to
_ERRORS = (av.FFmpegError, ArithmeticError, ValueError)
_CLOCK = 90_000  # units of a second
_LONGEST_STEP = 10 * _CLOCK
_DEFAULT_FPS = 25.0
# One fragment for each packet: players see it as soon as it is there.
_OPTIONS = {"movflags": "empty_moov+default_base_moof+frag_every_frame"}
# PyAV makes a stream for packets of others only from a stream that it has read: these are pictures of one colour, whose
# parameters are then replaced.
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


def _check_parameters(codec: str, extradata: bytes) -> None:
    """Let a decoder read the parameter sets first: it has limits where FFmpeg's MP4 muxer counts to four billion.

    Raises:
        StreamDamagedError: the decoder refuses them.
    """
    decoder = av.CodecContext.create(codec, "r")
    decoder.extradata = extradata
    decoder.options = {"err_detect": "explode"}
    decoder.thread_count = 1
    try:
        decoder.open()
    except _ERRORS as error:
        raise StreamDamagedError(f"the parameter sets of the video are damaged: {error}") from None


class StreamDamagedError(GatewayError):
    """A camera's video cannot be put into an MP4."""


class _Pieces:
    """What the muxer writes to: not a file, so that it never goes back."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


class Mp4Muxer(Closing):
    """Turns packets of one stream into pieces of an MP4."""

    def __init__(self, info: StreamInfo) -> None:
        """Make the muxer.

        Args:
            info: the stream; its codec is H.264 or H.265, and its parameter sets are known.

        Raises:
            StreamDamagedError: the parameter sets are damaged.
        """
        form, picture = _TEMPLATES[info.codec]
        _check_parameters(form, info.extradata)
        self._info = info
        self._output = _Pieces()
        self._container = av.open(self._output, "w", format="mp4", options=_OPTIONS)
        with av.open(io.BytesIO(bytes.fromhex(picture)), format=form) as template:
            self._stream = self._container.add_stream_from_template(template.streams.video[0])
        context = self._stream.codec_context
        context.extradata, context.width, context.height = info.extradata, info.width, info.height
        if info.rotation:
            self._stream.set_display_rotation(-info.rotation)
        self._stream.time_base = Fraction(1, _CLOCK)
        self._step = round(_CLOCK / (info.fps or _DEFAULT_FPS))
        self._shift: int | None = None
        self._last: tuple[int, int] = (0, 0)  # dts, capture time [ns]

    def add(self, packet: Packet) -> bytes:
        """Return the bytes that a packet adds to the MP4.

        Raises:
            StreamDamagedError: FFmpeg cannot store it.
        """
        try:
            dts, pts = self._times(packet)
            out = av.Packet(packet.data)
            out.stream = self._stream
            out.time_base = Fraction(1, _CLOCK)
            out.dts, out.pts, out.is_keyframe = dts, pts, packet.is_key
            out.duration = self._scale(packet.duration) if packet.duration else self._step
            self._container.mux_one(out)
        except _ERRORS as error:
            raise StreamDamagedError(f"a packet cannot be stored in an MP4: {error}") from None
        return self._output.take()

    def close(self) -> None:
        """Free the muxer."""
        with contextlib.suppress(*_ERRORS):  # of the header or the end, which nobody waits for
            self._container.close()

    def _times(self, packet: Packet) -> tuple[int, int]:
        """Return times that always grow, whatever the camera's own do."""
        if packet.dts is not None and packet.pts is not None:
            dts, pts = self._scale(packet.dts), self._scale(packet.pts)
        else:
            dts = pts = packet.capture_monotonic_ns * _CLOCK // 1_000_000_000
        last, captured = self._last
        if self._shift is None:
            self._shift = -dts
        elif not 0 < dts + self._shift - last <= _LONGEST_STEP:
            passed = (packet.capture_monotonic_ns - captured) * _CLOCK // 1_000_000_000
            self._shift = last + max(1, passed) - dts
        self._last = dts + self._shift, packet.capture_monotonic_ns
        return dts + self._shift, max(pts, dts) + self._shift

    def _scale(self, time: int) -> int:
        numerator, denominator = self._info.time_base
        return time * numerator * _CLOCK // denominator
