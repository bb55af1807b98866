"""Oddities of cameras, from the demuxer through the ring to a playable MP4: clocks that wrap or jump, open groups."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from support.clips import picture
from support.packets import through_ring
from tridetr.gateway.mp4 import Mp4Muxer
from tridetr.shm.packets import Packet, PacketReader, PacketStamp, PacketWriter

FPS = 25
WRAP = 1 << 33  # ticks of 1/90000 s after which the clock of MPEG-TS wraps around
STEP = 90_000 // FPS
PARAMETERS = "bframes=2:keyint=10:scenecut=0:repeat-headers=1"


def encoded(codec: str, count: int, more: str = "") -> list[av.Packet[VideoStream]]:
    """Return the packets of moving pictures with B-frames; their times count pictures."""
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height, context.pix_fmt = 320, 240, "yuv420p"
    context.time_base = Fraction(1, FPS)
    context.gop_size, context.max_b_frames = 10, 2
    log = "" if codec == "libx264" else "log-level=none:"
    key = f"{codec.removeprefix('lib')}-params"
    context.options = {"preset": "ultrafast", key: f"{log}{PARAMETERS}{more}"}
    found: list[av.Packet[VideoStream]] = []
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(picture(number, 320, 240), format="rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.pts = number
        found += context.encode(frame)
    return found + context.encode(None)


def write_ts(path: Path, packets: list[av.Packet[VideoStream]], codec: str, start: int) -> Path:
    """Write packets to an MPEG-TS file whose clock starts at this number of ticks."""
    options = {"mpegts_copyts": "1", "avoid_negative_ts": "disabled"}
    with av.open(str(path), "w", format="mpegts", options=options) as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.time_base = Fraction(1, 90_000)
        for packet in packets:
            assert packet.pts is not None
            assert packet.dts is not None
            out = av.Packet(bytes(packet))
            out.pts, out.dts = packet.pts * STEP + start, packet.dts * STEP + start
            out.time_base, out.stream = stream.time_base, stream
            out.is_keyframe = packet.is_keyframe
            container.mux(out)
    return path


def played(packets: list[Packet]) -> tuple[list[float], int]:
    """Return the display times [s] of the pictures in the MP4 that players get, and how many pictures are damaged.

    The muxer returns a packet once it has the next one, so the last packet is added twice.
    """
    muxer = Mp4Muxer(packets[0].info)
    data = b"".join(muxer.add(packet) for packet in (*packets, packets[-1]))
    muxer.close()
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(video=0))
    return [frame.time or 0.0 for frame in frames], sum(frame.is_corrupt for frame in frames)


def is_even(times: list[float]) -> bool:
    return bool(np.allclose(np.diff(times), 1 / FPS, atol=0.002))


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_the_clock_of_a_transport_stream_wraps(instance: str, tmp_path: Path, codec: str) -> None:
    packets = encoded(codec, 40)
    clip = write_ts(tmp_path / "clip.ts", packets, codec, WRAP - 20 * STEP)
    found = through_ring(instance, clip, "mpegts")
    assert len(found) == 40
    times, damaged = played(found)
    assert (len(times), damaged) == (40, 0)
    assert is_even(times)


@pytest.mark.parametrize("jump", [-WRAP, -1_000_000, 1_000_000, WRAP])
def test_times_that_jump_in_the_middle(instance: str, tmp_path: Path, jump: int) -> None:
    """Players show the time that really passed, which follows from the arrival times."""
    clip = write_ts(tmp_path / "clip.ts", encoded("libx264", 40), "libx264", WRAP // 2)
    found = through_ring(instance, clip, "mpegts")
    jumped = [
        replace(
            packet,
            capture_monotonic_ns=number * 1_000_000_000 // FPS,
            pts=(packet.pts or 0) + jump * (number >= 20),
            dts=(packet.dts or 0) + jump * (number >= 20),
        )
        for number, packet in enumerate(found)
    ]
    times, damaged = played(jumped)
    assert (len(times), damaged) == (40, 0)
    assert times == sorted(set(times))
    assert times[-1] - times[0] == pytest.approx(39 / FPS, abs=0.15)


def test_a_stream_that_starts_without_a_key_frame(instance: str, tmp_path: Path) -> None:
    packets = encoded("libx264", 40)
    clip = write_ts(tmp_path / "clip.ts", packets[4:], "libx264", 90_000)
    found = through_ring(instance, clip, "mpegts")
    assert found[0].is_key
    assert len(found) == 30
    assert (found[0].info.width, found[0].info.height) == (320, 240)
    times, damaged = played(found)
    assert (len(times), damaged) == (30, 0)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_readers_can_start_in_open_groups_of_pictures(
    instance: str, tmp_path: Path, codec: str
) -> None:
    """A reader can start at each key frame: pictures shown before it are missing, all later ones are complete."""
    packets = encoded(codec, 40, ":open-gop=1")
    clip = write_ts(tmp_path / "clip.ts", packets, codec, 90_000)
    found = through_ring(instance, clip, "mpegts")
    keys = [number for number, packet in enumerate(found) if packet.is_key]
    assert len(keys) == 4
    info = found[0].info
    with PacketWriter(instance, "late", seconds=10, max_mib=4) as writer:
        writer.start_stream(info)
        for packet in found:
            writer.put(
                packet.data,
                PacketStamp(1, 1, packet.pts, packet.dts, packet.duration, packet.is_key),
            )
        with PacketReader(instance, "late", live=True) as reader:
            late = list(iter(reader.read, None))
    assert len(late) == 40 - keys[-1]
    start = late[0].pts or 0
    shown = sum((packet.pts or 0) >= start for packet in late)
    times, _ = played(late)
    assert len(times) >= shown
    assert is_even(times[-shown:])
