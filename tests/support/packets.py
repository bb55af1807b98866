"""Packets with known content."""

from __future__ import annotations

from typing import Any

from tridetr.shm.packets import PacketStamp, PacketWriter, StreamInfo, VideoCodec
from tridetr.shm.values import ColorMatrix, ColorRange


def stream_info(**changes: Any) -> StreamInfo:
    """Return what is known of a 1080p H.264 stream."""
    fields: dict[str, Any] = {
        "codec": VideoCodec.H264,
        "codec_name": "h264",
        "codec_string": "avc1.640028",
        "extradata": b"\0\0\0\1\x67\x64\0\x28",
        "width": 1920,
        "height": 1080,
        "rotation": 90,
        "color_range": ColorRange.FULL,
        "color_matrix": ColorMatrix.BT709,
        "time_base": (1, 90_000),
        "fps": 29.97,
        "reorder": 2,
    }
    return StreamInfo(**fields | changes)


def payload(number: int, size: int) -> bytes:
    """Return bytes that only this packet has."""
    return (number.to_bytes(4, "little") * (size // 4 + 1))[:size]


def put_packet(
    writer: PacketWriter, number: int, *, key: bool = False, size: int = 1000, **changes: Any
) -> int | None:
    """Publish a packet whose content and times follow from its number: 40 ms apart."""
    fields: dict[str, Any] = {
        "capture_monotonic_ns": number * 40_000_000 + 1,
        "capture_unix_ns": number * 40_000_000 + 2,
        "pts": number * 3600,
        "dts": number * 3600 - 7200,
        "is_key": key,
    }
    return writer.put(payload(number, size), PacketStamp(**fields | changes))
