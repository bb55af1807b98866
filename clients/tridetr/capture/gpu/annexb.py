"""H.264 and H.265 packets as a hardware decoder wants them: with start codes, parameter sets before key frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from av.bitstream import BitStreamFilterContext

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream

_START_CODES = (b"\0\0\1", b"\0\0\0\1")


def filter_for(codec: str, extradata: bytes) -> str | None:
    """Return the FFmpeg filter that a stream needs; None: its packets are as they should be.

    >>> filter_for("h264", bytes.fromhex("0164001f"))  # MP4, MKV, FLV: lengths instead of start codes
    'h264_mp4toannexb'
    >>> filter_for("hevc", bytes.fromhex("0000000140"))  # RTSP: parameter sets outside of the stream
    'dump_extra'
    >>> filter_for("h264", b"")
    """
    if not extradata:
        return None
    return "dump_extra" if extradata.startswith(_START_CODES) else f"{codec}_mp4toannexb"


class AnnexB:
    """Turns the packets of one stream into Annex B bytes."""

    def __init__(self, stream: VideoStream) -> None:
        context = stream.codec_context
        name = filter_for(context.name, context.extradata or b"")
        self._filter = BitStreamFilterContext(name, stream) if name else None

    def __call__(self, packet: av.Packet[VideoStream]) -> bytes:
        """Return one packet's bytes; the packet is used up.

        Raises:
            FFmpegError: it is damaged.
        """
        if self._filter is None:
            return bytes(packet)
        return b"".join(bytes(part) for part in self._filter.filter(packet))
