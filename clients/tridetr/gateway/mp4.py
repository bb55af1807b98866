"""Remux the camera's own video into a fragmented MP4, packet by packet."""

from __future__ import annotations

import contextlib

import av

from tridetr.remux import PacketMuxer, StreamDamagedError
from tridetr.shm.closing import Closing
from tridetr.shm.packets import Packet, StreamInfo

__all__ = ["Mp4Muxer", "StreamDamagedError"]

# One fragment per packet, so that players can show it without delay.
_OPTIONS = {"movflags": "empty_moov+default_base_moof+frag_every_frame"}


class _Pieces:
    """Output of the muxer: not seekable, so that FFmpeg never goes back."""

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
        """Create the muxer.

        Args:
            info: the stream; its codec must be H.264 or H.265, and its parameter sets must be known.

        Raises:
            StreamDamagedError: the parameter sets are damaged.
        """
        self._output = _Pieces()
        self._muxer = PacketMuxer(av.open(self._output, "w", format="mp4", options=_OPTIONS), info)

    def add(self, packet: Packet) -> bytes:
        """Return the bytes that a packet adds to the MP4.

        Raises:
            StreamDamagedError: FFmpeg cannot store it.
        """
        self._muxer.put(packet)
        return self._output.take()

    def close(self) -> None:
        """Free the muxer."""
        # An error while writing the header or the trailer does not matter here.
        with contextlib.suppress(av.FFmpegError, ArithmeticError, ValueError):
            self._muxer.close()
