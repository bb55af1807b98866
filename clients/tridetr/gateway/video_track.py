"""Forward the camera's own video to viewers: packets from the ring as `video` messages, without transcoding."""

from __future__ import annotations

import base64
import time
from typing import Any

from tridetr.codec_string import has_parameter_sets
from tridetr.config import Config
from tridetr.gateway import message
from tridetr.gateway.facts import unix_ms
from tridetr.shm.closing import Closing
from tridetr.shm.names import VIEW
from tridetr.shm.packets import Packet, PacketReader, StreamInfo, VideoCodec

_LAG_S = 1.0  # a viewer that is further behind continues at a newer key frame
_CATCH_UP_S = 2.0  # without a newer key frame, it is given this long to catch up
_SILENT_NS = 3_000_000_000  # without a packet of the second stream for this long: back to the first
_OLD_NS = 15_000_000_000  # age of packets that a dead capture process left behind
_DEFAULT_FPS = 25.0
IN_BROWSERS = (VideoCodec.H264, VideoCodec.HEVC)


def why_withheld(config: Config, camera: str) -> str:
    """Return why a camera's own video must not be sent; empty if it may be.

    All outputs (`video` messages, /stream) use this check: parts that are masked in the pictures are visible in the
    packets.
    """
    if config.cameras[camera].mask:
        return "parts of the picture are masked"
    if not config.cameras[camera].realtime:
        return "the recording is not played in real time"
    return ""


def video_facts(info: StreamInfo | None) -> dict[str, Any] | None:
    """Return the decoder configuration of a stream for browsers; None if browsers have no decoder for it."""
    if info is None or info.codec not in IN_BROWSERS or not info.codec_string:
        return None
    return {
        "codec": info.codec_string,
        # Without a description, the packets contain start codes and the parameter sets.
        "description": None if info.is_annexb else base64.b64encode(info.extradata).decode(),
        "width": info.width,
        "height": info.height,
        "rotation": info.rotation,
        "reorder": info.reorder,
    }


def self_contained(packet: Packet) -> bytes:
    """Return a packet's bytes; if a key frame lacks the stream's parameter sets, they are prepended."""
    info = packet.info
    needs_sets = packet.is_key and info.extradata and info.is_annexb
    if needs_sets and not has_parameter_sets(info.codec_name, packet.data):
        return info.extradata + packet.data
    return packet.data


def is_old(packet: Packet) -> bool:
    """Return whether a packet of the second stream was left by a capture process that died."""
    return time.monotonic_ns() - packet.capture_monotonic_ns > _OLD_NS


class VideoTrack(Closing):
    """The video of one viewer: all packets from a key frame on; a viewer that is too slow skips to a newer one.

    Nothing is buffered: a packet is read from the ring when it can be sent. The second stream replaces the first one
    from a key frame on, for as long as it delivers packets.
    """

    def __init__(self, instance: str, camera: str, *, view: bool = False) -> None:
        """Open the packet rings.

        Args:
            instance: Instance of tridetr.
            camera: Name of the camera.
            view: Whether to request the camera's second stream too.
        """
        self._source = _Track(PacketReader(instance, camera, live=True))
        self._view = (
            _Track(PacketReader(instance, camera, live=True, kind=VIEW, demand=True))
            if view
            else None
        )
        self._is_view = False  # whether the second stream is being sent
        self._view_ns = 0  # when its newest packet was sent
        self._sent: tuple[bool, int] | None = None  # stream and generation of the last packet

    def next(self) -> bytes | None:
        """Return the next `video` message; None if there is none now."""
        now_ns = time.monotonic_ns()
        if self._view is not None:
            packet = self._view.next()
            while packet is not None and not self._is_view:
                if packet.is_key and not is_old(packet):
                    self._is_view = True
                else:
                    packet = self._view.next()
            if packet is not None:
                self._view_ns = now_ns
                return self._message(packet)
            if self._is_view:
                if now_ns - self._view_ns < _SILENT_NS:
                    return None
                self._is_view = False
                self._source.reader.seek(now_ns)
        packet = self._source.next()
        return None if packet is None else self._message(packet)

    def forget_removed(self) -> None:
        """Close rings whose files were removed."""
        for track in filter(None, (self._source, self._view)):
            track.reader.forget_if_removed()

    def close(self) -> None:
        """Close the rings."""
        for track in filter(None, (self._source, self._view)):
            track.reader.close()

    def _message(self, packet: Packet) -> bytes:
        sent = self._is_view, packet.generation
        has_turned = self._sent is not None and self._sent[0] != self._is_view
        header: dict[str, Any] = {
            "type": "video",
            "packet": packet.sequence,
            "key": packet.is_key,
            "restart": packet.discontinuity or has_turned,
            "capture_unix_ms": unix_ms(packet.capture_unix_ns),
            "timestamp_us": _timestamp_us(packet),
        }
        if sent != self._sent:
            self._sent = sent
            header |= {"config": video_facts(packet.info), "view": self._is_view}
        return message.pack(header, self_contained(packet))


class _Track:
    """Reads the packets of one ring that browsers may be able to decode."""

    def __init__(self, reader: PacketReader) -> None:
        self.reader = reader
        self._newest: Packet | None = None  # the last one that was read
        self._behind_s: float | None = None  # since when it is behind

    def next(self) -> Packet | None:
        """Return the next packet; None if there is none, or if it would be too old."""
        while True:
            now_s = time.monotonic()
            if not self._is_behind():
                self._behind_s = None
            elif self.reader.skip() or self._behind_s is None:
                self._behind_s = now_s
            elif now_s - self._behind_s > _CATCH_UP_S:
                return None  # until there is a newer key frame
            packet = self.reader.read()
            if packet is None:
                return None
            self._newest = packet
            if packet.info.codec in IN_BROWSERS:
                return packet

    def _is_behind(self) -> bool:
        lag = self.reader.lag
        if self._newest is None or lag <= 1:
            return False
        age_s = (time.monotonic_ns() - self._newest.capture_monotonic_ns) / 1e9
        return age_s > _LAG_S or lag > _LAG_S * (self._newest.info.fps or _DEFAULT_FPS)


def _timestamp_us(packet: Packet) -> int:
    """Return a packet's timestamp in display order, in microseconds."""
    if packet.info.reorder and packet.pts is not None:
        numerator, denominator = packet.info.time_base
        return packet.pts * numerator * 1_000_000 // denominator
    return packet.capture_unix_ns // 1000
