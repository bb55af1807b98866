"""Converts H.264 and H.265 packets to Annex B, with parameter sets before key frames, for hardware decoders."""

from __future__ import annotations

import io
from typing import Final

import av
from av.bitstream import BitStreamFilterContext

from tridetr.gpu.decoder_api import Codec
from tridetr.remux import add_stream
from tridetr.shm.packets import Packet, StreamInfo, VideoCodec

# FFmpeg's names of the codecs, which its formats and filters have, too
CODECS: Final[dict[VideoCodec, Codec]] = {VideoCodec.H264: "h264", VideoCodec.HEVC: "hevc"}


class AnnexB:
    """Converts the packets of one stream to Annex B with FFmpeg's bitstream filters.

    The first filter replaces lengths with start codes (MP4, MKV, FLV); the second puts the parameter sets before each
    key frame that lacks them, because a decoder that starts in the middle of a stream needs them.
    """

    def __init__(self, info: StreamInfo) -> None:
        """Set up the filters for a stream.

        Args:
            info: Parameters of an H.264 or H.265 stream.

        Raises:
            ValueError: Its parameter sets are damaged.
        """
        codec = CODECS[info.codec]
        # The filters need the stream's parameters, which are set when a container writes its header (here discarded).
        try:
            with av.open(io.BytesIO(), "w", format=codec) as container:
                stream = add_stream(container, info)
                container.start_encoding()
                filters = f"{codec}_mp4toannexb,dump_extra"
                self._filter = BitStreamFilterContext(filters, stream)
        except av.FFmpegError as error:
            raise ValueError(f"the stream's parameter sets are damaged: {error}") from None

    def __call__(self, packet: Packet) -> bytes:
        """Convert one packet and return its bytes.

        Raises:
            ValueError: The packet is damaged.
        """
        given = av.Packet(packet.data)
        given.is_keyframe = packet.is_key
        try:
            return b"".join(bytes(made) for made in self._filter.filter(given))
        except av.FFmpegError as error:
            self._filter.flush()
            raise ValueError(str(error)) from None
