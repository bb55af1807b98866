"""H.264 and H.265 packets as a hardware decoder wants them: start codes, parameter sets before key frames."""

from __future__ import annotations

import io

import av
from av.bitstream import BitStreamFilterContext

from tridetr.remux import add_stream
from tridetr.shm.packets import Packet, StreamInfo, VideoCodec

_FILTERS = {
    VideoCodec.H264: ("h264", "h264_mp4toannexb,dump_extra"),
    VideoCodec.HEVC: ("hevc", "hevc_mp4toannexb,dump_extra"),
}


class AnnexB:
    """Turns the packets of one stream into Annex B bytes by FFmpeg's filters.

    The first filter replaces lengths by start codes (MP4, MKV, FLV); the second puts the parameter sets before each key
    frame that lacks them, as a decoder that begins in the middle of a stream needs them.
    """

    def __init__(self, info: StreamInfo) -> None:
        """Read what comes before the packets.

        Args:
            info: an H.264 or H.265 stream.

        Raises:
            ValueError: its parameter sets are damaged.
        """
        form, filters = _FILTERS[info.codec]
        # The filters read a stream's parameters, which a container has when its header is written: here to nowhere.
        try:
            with av.open(io.BytesIO(), "w", format=form) as container:
                stream = add_stream(container, info)
                container.start_encoding()
                self._filter = BitStreamFilterContext(filters, stream)
        except av.FFmpegError as error:
            raise ValueError(f"the stream's parameter sets are damaged: {error}") from None

    def __call__(self, packet: Packet) -> bytes:
        """Return one packet's bytes.

        Raises:
            ValueError: the packet is damaged.
        """
        given = av.Packet(packet.data)
        given.is_keyframe = packet.is_key
        try:
            return b"".join(bytes(made) for made in self._filter.filter(given))
        except av.FFmpegError as error:
            self._filter.flush()
            raise ValueError(str(error)) from None
