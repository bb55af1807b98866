"""The camera's own video for viewers: packets from the ring as `video` messages, nothing is encoded or decoded here."""

from __future__ import annotations

import base64
from typing import Any

from tridetr.codec_string import has_parameter_sets
from tridetr.config import Config
from tridetr.gateway import message
from tridetr.gateway.facts import unix_ms
from tridetr.shm.closing import Closing
from tridetr.shm.packets import Packet, PacketReader, StreamInfo, VideoCodec

_LAG_S = 1.0  # a viewer that is further behind goes on at the next key frame
_DEFAULT_FPS = 25.0
IN_BROWSERS = (VideoCodec.H264, VideoCodec.HEVC)


def why_withheld(config: Config, camera: str) -> str:
    """Return why a camera's own video must not leave this node; empty: it may.

    Every way out (`video` messages, /stream) asks here. What is hidden in the pictures would be seen in the packets.
    """
    if config.cameras[camera].mask:
        return "parts of its picture are masked"
    if not config.cameras[camera].realtime:
        return "the recording is not played in real time"
    return ""


def video_facts(info: StreamInfo | None) -> dict[str, Any] | None:
    """Return what a browser's decoder must know of a stream; None where browsers have no decoder for it."""
    if info is None or info.codec not in IN_BROWSERS or not info.codec_string:
        return None
    return {
        "codec": info.codec_string,
        # Without a description the packets carry start codes and their parameter sets.
        "description": None if info.is_annexb else base64.b64encode(info.extradata).decode(),
        "width": info.width,
        "height": info.height,
        "rotation": info.rotation,
        "reorder": info.reorder,
    }


def self_contained(packet: Packet) -> bytes:
    """Return a packet's bytes, with the stream's parameter sets before a key frame that lacks them."""
    info = packet.info
    needs_sets = packet.is_key and info.extradata and info.is_annexb
    if needs_sets and not has_parameter_sets(info.codec_name, packet.data):
        return info.extradata + packet.data
    return packet.data


class VideoTrack(Closing):
    """What one viewer gets of a camera's video: all packets from a key frame on; if it is slow, from a newer one.

    Nothing waits here: a packet is taken from the ring when it can be sent.
    """

    def __init__(self, instance: str, camera: str) -> None:
        self._reader = PacketReader(instance, camera, live=True)
        self._generation = 0

    def next(self) -> bytes | None:
        """Return the next `video` message; None while there is none."""
        while True:
            if self._reader.lag > self._allowed_lag():
                self._reader.skip()
            packet = self._reader.read()
            if packet is None:
                return None
            self._fps = packet.info.fps
            if packet.info.codec in IN_BROWSERS:
                return self._message(packet)

    def forget_removed(self) -> None:
        """Let go of a ring whose file was removed."""
        self._reader.forget_if_removed()

    def close(self) -> None:
        """Let go of the ring."""
        self._reader.close()

    _fps = 0.0

    def _allowed_lag(self) -> float:
        return _LAG_S * (self._fps or _DEFAULT_FPS)

    def _message(self, packet: Packet) -> bytes:
        header: dict[str, Any] = {
            "type": "video",
            "packet": packet.sequence,
            "key": packet.is_key,
            "restart": packet.discontinuity,
            "capture_unix_ms": unix_ms(packet.capture_unix_ns),
            "timestamp_us": _timestamp_us(packet),
        }
        if packet.generation != self._generation:
            self._generation = packet.generation
            header["config"] = video_facts(packet.info)
        return message.pack(header, self_contained(packet))


def _timestamp_us(packet: Packet) -> int:
    """Return a time in the order of display."""
    if packet.info.reorder and packet.pts is not None:
        numerator, denominator = packet.info.time_base
        return packet.pts * numerator * 1_000_000 // denominator
    return packet.capture_unix_ns // 1000
