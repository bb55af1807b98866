"""Decoding of a network stream on the CPU: damaged pictures are recognised."""

from __future__ import annotations

import contextlib
import gc
import threading
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
import psutil
import pytest
from av.video.codeccontext import VideoCodecContext

from support.clips import CAMERA_OPTIONS, write_clip
from tridetr.capture.sources.base import CorruptFrameError, Layout, SourceEndedError
from tridetr.capture.sources.file import FileSource
from tridetr.capture.sources.network import NetworkSource
from tridetr.capture.sources.pump import Arrival
from tridetr.capture.sources.rotation import CheckedRotation
from tridetr.capture.sources.video import CpuVideo, Decoded
from tridetr.config import CameraSection


def stream_of(count: int, slices: int) -> list[bytes]:
    """Return the packets of an H.264 stream of moving noise with one key frame."""
    context = av.CodecContext.create("libx264", "w")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height, context.pix_fmt = 320, 192, "yuv420p"
    context.time_base = Fraction(1, 10)
    context.options = {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "g": "1000",
        "x264-params": f"slices={slices}",
    }
    cells = np.random.default_rng(0).integers(0, 255, (24, 40), dtype=np.uint8)
    packets = []
    for n in range(count):
        luma = np.kron(np.roll(cells, n, axis=1), np.ones((8, 8), np.uint8))
        frame = av.VideoFrame.from_ndarray(luma, format="gray").reformat(format="yuv420p")
        frame.pts = n
        packets += [bytes(packet) for packet in context.encode(frame)]
    return packets


def decode(packets: list[bytes]) -> tuple[int, int]:
    """Return the numbers of pictures that are shown and of those that are damaged."""
    codec = av.CodecContext.create("h264", "r")
    stream: Any = SimpleNamespace(codec_context=codec)  # all that it uses
    video = CpuVideo(stream, 320 * 192)
    shown = damaged = 0
    for n, data in enumerate(packets):
        packet: Any = av.Packet(data)
        try:
            decoded = video.decode(Arrival(packet, n, n, n, False))
        except CorruptFrameError:
            damaged += 1
            continue
        shown += sum(item.picture is not None for item in decoded)
        damaged += sum(item.picture is None for item in decoded)
    return shown, damaged


@pytest.mark.parametrize("flipped", [0, 50])
def test_packets_are_freed_after_decoding(flipped: int) -> None:
    """Each one referred to itself through FFmpeg, so memory grew by all that the camera sent."""
    packets = [bytes(128) if n < flipped else data for n, data in enumerate(stream_of(100, 1))]
    before = sum(isinstance(found, Arrival) for found in gc.get_objects())
    decode(packets)
    gc.collect()
    assert sum(isinstance(found, Arrival) for found in gc.get_objects()) <= before


@pytest.mark.parametrize("slices", [1, 4])
def test_pictures_with_damaged_data_are_not_shown(slices: int) -> None:
    packets = stream_of(20, slices)
    assert decode(packets) == (20, 0)
    rng = np.random.default_rng(0)
    broken = []
    for n, data in enumerate(packets):
        flipped = np.frombuffer(data, np.uint8).copy()
        if n:
            flipped[rng.integers(len(data) // 4, len(data), 8)] ^= 0xFF
        broken.append(flipped.tobytes())
    shown, damaged = decode(broken)
    assert shown <= 4
    assert damaged >= 16


def test_pictures_are_doubtful_from_a_damaged_one_to_the_next_intact_key_frame() -> None:
    """At 2 % of lost packets, 93 % of the pictures that counted as good were wrecked, and nothing showed it."""
    codec = av.CodecContext.create("h264", "r")
    video = CpuVideo(cast(Any, SimpleNamespace(codec_context=codec)), 320 * 192)
    first, second = stream_of(20, 1), stream_of(20, 1)
    first[5] = first[5][: len(first[5]) // 2]
    seen = []
    for n, data in enumerate([*first, *second]):
        packet: Any = av.Packet(data)
        with contextlib.suppress(CorruptFrameError):
            for item in video.decode(Arrival(packet, n, n * 10**8, n, False)):
                seen.append("-" if item.picture is None else "?" if item.is_doubtful else "+")
    text = "".join(seen)
    assert text.startswith("+" * 5)
    assert text.endswith("+" * 20)
    assert set(text[5:-20]) <= {"?", "-"}
    assert text.count("?") >= 12


def test_a_picture_that_is_suddenly_rotated_is_not_shown() -> None:
    """One lost packet of H.265 turned all pictures by 90 degrees until the camera was opened again."""
    codec = av.CodecContext.create("hevc", "r")
    video = CpuVideo(cast(Any, SimpleNamespace(codec_context=codec)), 320 * 192)
    arrival = Arrival(cast(Any, av.Packet(b"x")), 0, 0, 0, False)

    def shown(rotation: int) -> bool:
        frame = SimpleNamespace(
            opaque=None, is_corrupt=False, key_frame=True, rotation=rotation, side_data={}
        )
        return video._decoded(cast(Any, frame), arrival).picture is not None

    assert [shown(degrees) for degrees in (90, 90, 0, 0, 90)] == [True, True, False, False, True]


def rotated_clip(path: Path, turns: list[str]) -> Path:
    """Write an H.264 stream with a rotation at the key frames that `turns` has one for; the others are not rotated."""
    clip = write_clip(path.with_name("upright.h264"), 10 * len(turns), options=CAMERA_OPTIONS)
    units = []
    with av.open(clip) as container:
        for packet in container.demux(video=0):
            if packet.size:
                units.append((packet.is_keyframe, bytes(packet)))
    with path.open("wb") as file:
        for n, (is_key, data) in enumerate(units):
            turn = turns[n // 10]
            if is_key and turn:
                degrees = int(turn)
                # Not cancelled, not flipped, degrees / 360 in 16 bits, repeated until the next one
                bits = f"000{degrees * 65536 // 360:016b}0101"
                payload = int(bits.ljust(24, "0"), 2).to_bytes(3, "big")
                file.write(b"\0\0\0\1\x06\x2f\x03" + payload + b"\x80")
            file.write(data)
    return path


@pytest.mark.parametrize(
    ("turns", "heights"),
    [
        (["90", "90", "90"], [(320, 30)]),
        (["90", "", "90", ""], [(320, 40)]),
        (["90", "180", "90"], [(320, 10), (None, 1), (320, 19)]),
        (["", "", "90", "", "90", ""], [(240, 20), (None, 1), (240, 19), (320, 20)]),
    ],
)
def test_a_rotation_that_comes_with_few_pictures_is_that_of_all(
    tmp_path: Path, turns: list[str], heights: list[tuple[int | None, int]]
) -> None:
    """FFmpeg passes it on with the same pictures only; all others counted as damaged."""
    clip = rotated_clip(tmp_path / "rotated.h264", turns)
    seen: list[int | None] = []
    with av.open(clip) as container:
        stream = container.streams.video[0]
        video = CpuVideo(stream, 320 * 240)
        for n, packet in enumerate(container.demux(stream)):
            for item in video.decode(Arrival(packet, n, n, n, False)):
                seen.append(item.picture().height if item.picture else None)
    assert seen == [height for height, count in heights for _ in range(count)]


def test_a_recording_whose_rotation_comes_with_few_pictures_is_upright(tmp_path: Path) -> None:
    clip = rotated_clip(tmp_path / "rotated.h264", ["90", "", "180", "0"])
    section = CameraSection(source=str(clip), realtime=False, loop=False)
    source = FileSource(section, threading.Event())
    source.open()
    heights = []
    with contextlib.suppress(SourceEndedError):
        while grab := source.next(10.0):
            heights.append(grab.decode().height)
    source.close()
    assert heights == [320] * 20 + [240] * 20


def converted(tmp_path: Path, scaler: Any = None) -> list[Decoded]:
    """Return the pictures of a stream whose pixel format has to be converted."""
    clip = write_clip(tmp_path / "444.ts", 30, pix_fmt="yuv444p", options=CAMERA_OPTIONS)
    with av.open(clip) as container:
        stream = container.streams.video[0]
        video = CpuVideo(stream, 320 * 240)
        if scaler:
            video._scaler = scaler
        arrivals = [Arrival(p, n, n, n, False) for n, p in enumerate(container.demux(stream))]
        return [item for arrival in arrivals for item in video.decode(arrival)]


def test_the_conversion_of_pictures_leaves_no_threads_behind(tmp_path: Path) -> None:
    """Each picture had a scaler with threads of its own, until they exceeded the memory limit of the process."""
    items = converted(tmp_path)
    before = psutil.Process().num_threads()
    most = before
    for item in items:
        assert item.picture
        assert item.picture().layout is Layout.I420
        most = max(most, psutil.Process().num_threads())
    assert most == before


@pytest.mark.parametrize("error", [av.BlockingIOError(11, "graph"), MemoryError("context")])
def test_a_picture_that_cannot_be_converted_counts_as_damaged(
    tmp_path: Path, error: Exception
) -> None:
    """It ended the capture process with a traceback."""

    def fail(*_: object, **__: object) -> None:
        raise error

    item = converted(tmp_path, SimpleNamespace(reformat=fail))[0]
    assert item.picture
    with pytest.raises(CorruptFrameError, match="cannot convert yuv444p 320x240"):
        item.picture()


def test_a_picture_of_which_slices_are_missing_is_not_shown() -> None:
    packets = stream_of(20, 4)
    units = packets[10].split(b"\x00\x00\x01")
    packets[10] = b"\x00\x00\x01".join(units[:-2])  # the lower half
    shown, damaged = decode(packets)
    assert damaged == 1
    assert shown == 19


@pytest.mark.parametrize("is_refreshed", [True, False])
def test_streams_that_are_refreshed_without_key_frames_are_decoded_in_standby(
    tmp_path: Path, is_refreshed: bool
) -> None:
    """The decoder was flushed where FFmpeg takes a recovery point for a key frame: no picture ever came out."""
    options = {"x264-params": f"keyint=20:intra-refresh={int(is_refreshed)}"}
    clip = write_clip(tmp_path / "clip.h264", 200, options=CAMERA_OPTIONS | options)
    source = NetworkSource(CameraSection(source="rtsp://camera/"), threading.Event())
    shown = []
    with av.open(clip) as container:
        stream = container.streams.video[0]
        source._video = CpuVideo(stream, 320 * 240)
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert sum(packet.is_keyframe for packet in packets) == 10
        source.decode_only_keys(True)
        for n, packet in enumerate(packets):
            source._take(Arrival(packet, n, (100 + n) * 10**8, n, False))
            shown += [n] * len(source._ready)
            source._ready.clear()
    gaps = np.diff(shown)
    assert shown[0] == 0
    assert set(gaps[2:]) == ({31} if is_refreshed else {20})
    assert gaps.max() <= 31


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_pictures_are_freed_without_the_garbage_collector(tmp_path: Path, codec: str) -> None:
    """Reference cycles kept some 150 pictures in memory: too many for a 4K camera."""
    clip, rotation = write_clip(tmp_path / "clip.mp4", 40), CheckedRotation(codec)
    gc.collect()
    gc.disable()
    try:
        with av.open(str(clip)) as container:
            for frame in container.decode(video=0):
                assert rotation.of(frame) == 0
            del frame
        assert gc.collect() < 40
    finally:
        gc.enable()
