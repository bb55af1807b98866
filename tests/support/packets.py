"""Packets with known content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av

from tridetr.capture.packets import PacketSink
from tridetr.config import PacketsSection
from tridetr.shm.packets import (
    Packet,
    PacketReader,
    PacketStamp,
    PacketWriter,
    StreamInfo,
    VideoCodec,
)
from tridetr.shm.values import ColorMatrix, ColorRange


def stream_info(**changes: Any) -> StreamInfo:
    """Return the description of a 1080p H.264 stream."""
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
    """Return content that is unique to this packet."""
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


def through_ring(instance: str, path: Path, form: str | None = None) -> list[Packet]:
    """Publish a file's packets to a ring and return those that a reader gets."""
    with (
        PacketSink(instance, "cam", PacketsSection()) as sink,
        # As with a camera, FFmpeg cannot see the end of the stream when it opens it
        av.open(str(path), format=form, options={"probesize": "2048"} if form else {}) as container,
        PacketReader(instance, "cam") as reader,
    ):
        stream = container.streams.video[0]
        sink.open(stream)
        found = []
        for number, packet in enumerate(container.demux(stream)):
            if packet.size:
                sink.put(packet, number + 1, number + 2)
            while (seen := reader.read()) is not None:
                found.append(seen)
        return found
