"""Decoding on a simulated GPU (FFmpeg decodes): pictures and order are the same as on the CPU."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.clips import jpegs, write_clip
from support.fake_gpu import FakeDecoders, Plane
from support.packets import stream_info
from tridetr.capture.packets import describe
from tridetr.capture.planes import copy_picture, even_size
from tridetr.capture.sources.av import open_video, packets
from tridetr.capture.sources.base import Picture
from tridetr.capture.sources.jpeg_decoder import JpegDecoder
from tridetr.capture.sources.pump import Arrival
from tridetr.capture.sources.video import CpuVideo
from tridetr.codec_string import units
from tridetr.gpu.annexb import AnnexB
from tridetr.gpu.decoder_api import GpuDecodeError, GpuUnavailableError
from tridetr.gpu.gpu_jpeg import GpuJpeg
from tridetr.gpu.gpu_video import DevicePicture, GpuVideo
from tridetr.gpu.surface_layout import Subsampling, nv12_pitch, plan_jpeg
from tridetr.i420 import planes
from tridetr.shm.packets import Packet, StreamInfo, VideoCodec


@pytest.fixture
def decoders(tmp_path: Path) -> FakeDecoders:
    folder = tmp_path / "gpu"
    folder.mkdir()
    return FakeDecoders(folder)


def on_host(picture: Picture) -> Plane:
    """Return a picture as capture writes it."""
    width, height = even_size(picture.width, picture.height)
    frame = np.zeros((height * 3 // 2, width), np.uint8)
    copy_picture(picture, *planes(frame))
    return frame


def on_device(decoders: FakeDecoders, picture: DevicePicture) -> Plane:
    """Return a picture as it is written to device memory."""
    gpu = decoders.gpu
    frame = np.zeros((picture.height * 3 // 2, picture.width), np.uint8)
    stream, event = gpu.make_stream(), gpu.make_event()
    picture.lay(int(frame.ctypes.data), stream)
    gpu.record(event, stream)
    while not gpu.is_complete(event):
        pass
    gpu.free_event(event)
    gpu.free_stream(stream)
    return frame


def packet_of(
    number: int, data: bytes, info: StreamInfo, *, key: bool = True, pts: int | None = None
) -> Packet:
    return Packet(
        number, 1, info, info.codec, key, False, False, pts, pts, None, number, number, data, 0
    )


def jpeg_packet(data: bytes) -> Packet:
    return packet_of(1, data, stream_info(codec=VideoCodec.MJPEG, codec_name="mjpeg", rotation=0))


@pytest.mark.parametrize("pix_fmt", ["yuvj420p", "yuvj422p"])
@pytest.mark.parametrize("size", [(320, 240), (64, 48), (322, 242), (321, 241), (320, 241)])
def test_jpegs_have_the_same_pixels_as_on_the_cpu(
    decoders: FakeDecoders, pix_fmt: str, size: tuple[int, int]
) -> None:
    (data,) = jpegs(1, size=size, pix_fmt=pix_fmt)
    expected = JpegDecoder().decode(data)
    (picture,) = GpuJpeg(decoders).decode(jpeg_packet(data))
    assert (picture.color_range, picture.color_matrix) == (
        expected.color_range,
        expected.color_matrix,
    )
    assert picture.jpeg == data
    assert np.array_equal(on_device(decoders, picture), on_host(expected))


def test_420_of_even_size_needs_no_copy() -> None:
    plan = plan_jpeg(Subsampling.S420, 640, 480, 1 << 20, 0)
    assert plan.copies == ()
    (y, pitch), (u, half), (v, _) = plan.channels
    assert (y, u - y, v - u, pitch, half) == (1 << 20, 640 * 480, 320 * 240, 640, 320)
    with pytest.raises(ValueError, match="4:2:0 and 4:2:2"):
        plan_jpeg(Subsampling.OTHER, 640, 480, 0, 0)


def test_jpegs_that_the_gpu_does_not_decode(decoders: FakeDecoders) -> None:
    with pytest.raises(GpuUnavailableError, match="4:2:0"):
        GpuJpeg(decoders).decode(jpeg_packet(jpegs(1, pix_fmt="yuvj444p")[0]))
    with pytest.raises(GpuUnavailableError, match="nvJPEG"):
        GpuJpeg(FakeDecoders(decoders.gpu.folder, "jpeg"))
    with pytest.raises(GpuDecodeError):
        GpuJpeg(decoders).decode(jpeg_packet(jpegs(1)[0][:400]))


def test_an_enormous_size_in_a_jpeg_does_not_end_the_process(decoders: FakeDecoders) -> None:
    """The process decodes for all cameras: only errors of the decoder may leave this function."""
    (data,) = jpegs(1)
    size = data.index(b"\xff\xc0") + 5
    with pytest.raises(GpuDecodeError):
        GpuJpeg(decoders).decode(jpeg_packet(data[:size] + b"\xff\xdc" * 2 + data[size + 4 :]))


def demuxed(file: Path) -> tuple[StreamInfo, list[Packet]]:
    """Return a file's stream and packets as capture publishes them."""
    container, stream = open_video(str(file), shown=file.name, options={}, timeout_s=5)
    info = replace(describe(stream), rotation=0)
    found = [
        packet_of(index, bytes(packet), info, key=packet.is_keyframe, pts=packet.pts)
        for index, packet in enumerate(packets(container, stream))
    ]
    return info, found


def short_groups(folder: Path) -> tuple[StreamInfo, list[Packet]]:
    """Return the stream and the packets of a clip of 20 pictures, with a key frame every 8."""
    options = {"g": "8", "bf": "0", "sc_threshold": "0"}
    return demuxed(write_clip(folder / "c.mkv", 20, options=options))


def on_cpu(file: Path) -> list[Plane]:
    container, stream = open_video(str(file), shown=file.name, options={}, timeout_s=5)
    video = CpuVideo(stream, 1 << 20)
    return [
        on_host(decoded.picture())
        for index, packet in enumerate(packets(container, stream))
        for decoded in video.decode(Arrival(packet, index, index, 0, False))
        if decoded.picture is not None
    ]


CLIPS = [
    ("clip.mkv", "libx264", {"bf": "0"}),  # lengths instead of start codes
    ("clip.ts", "libx264", {"bf": "0"}),  # start codes
    ("clip.mkv", "libx264", {"bf": "2"}),  # later pictures first
    ("clip.ts", "libx264", {"bf": "3", "b-pyramid": "normal"}),
    ("clip.mp4", "libx265", {"x265-params": "log-level=none:bframes=0"}),
    ("clip.mp4", "libx265", {"x265-params": "log-level=none:bframes=3"}),
]


@pytest.mark.parametrize(("name", "codec", "options"), CLIPS)
def test_video_has_the_same_frames_as_on_the_cpu(
    decoders: FakeDecoders, tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    file = write_clip(tmp_path / name, 12, codec=codec, size=(320, 180), options=options)
    info, fed = demuxed(file)
    gpu = GpuVideo(decoders, info)
    pictures = []
    seen = []
    for packet in fed:
        for picture in gpu.decode(packet):
            seen.append(on_device(decoders, picture))
            pictures.append(picture.packet)
    assert len(seen) >= 8
    for found, expected in zip(seen, on_cpu(file), strict=False):
        assert np.array_equal(found, expected)
    times = [packet.pts for packet in pictures if packet.pts is not None]
    assert len(times) == len(pictures)
    assert times == sorted(times)  # in display order, each with its own packet's times
    sent = [packet.pts for packet in fed if packet.pts is not None]
    reordered = any(b < a for a, b in itertools.pairwise(sent))
    assert decoders.reorders == [reordered]  # pictures are held back only if necessary


def test_b_frames_that_the_stream_does_not_announce(decoders: FakeDecoders, tmp_path: Path) -> None:
    """As with RTSP cameras whose parameter sets are wrong. From the next key frame on, the order is right."""
    options = {"bf": "2", "g": "6", "sc_threshold": "0"}
    info, fed = demuxed(write_clip(tmp_path / "c.mkv", 24, options=options))
    video = GpuVideo(decoders, replace(info, reorder=0))
    shown: list[int] = []
    for packet in fed:
        with contextlib.suppress(GpuDecodeError):  # up to the key frame
            shown += [picture.packet.pts or 0 for picture in video.decode(packet)]
    assert decoders.reorders == [False, True]
    assert shown == sorted(shown)
    assert len(shown) > 12


def test_a_clock_that_is_set_back_at_a_key_frame_is_not_reordering(
    decoders: FakeDecoders, tmp_path: Path
) -> None:
    info, fed = demuxed(write_clip(tmp_path / "c.mkv", 8, options={"bf": "0", "g": "8"}))
    video = GpuVideo(decoders, info)
    for packet in [*fed, *fed]:
        video.decode(packet)
    assert decoders.reorders == [False]


@given(
    st.sampled_from([VideoCodec.H264, VideoCodec.HEVC]),
    st.binary(max_size=60),
    st.binary(max_size=60),
)
@example(VideoCodec.H264, bytes.fromhex("0164001fffe1000a"), b"")
@example(VideoCodec.HEVC, bytes(22) + b"\xff", b"")
def test_damaged_parameter_sets_and_packets_raise_known_errors(
    codec: VideoCodec, extradata: bytes, data: bytes
) -> None:
    info = stream_info(codec=codec, extradata=extradata, rotation=0)
    with contextlib.suppress(ValueError):
        AnnexB(info)(packet_of(0, data, info))


@pytest.mark.parametrize("name", ["clip.mkv", "clip.ts"])
def test_parameter_sets_precede_each_key_frame(
    decoders: FakeDecoders, tmp_path: Path, name: str
) -> None:
    """Even if a stream continues without an IDR picture, and a decoder starts in the middle."""
    options = {"x264-params": "open-gop=1:keyint=4:scenecut=0:bframes=2"}
    info, fed = demuxed(write_clip(tmp_path / name, 16, options=options))
    annexb = AnnexB(info)
    keys = [packet for packet in fed if packet.is_key]
    assert len(keys) > 2
    for packet in keys:
        kinds = [unit[0] & 31 for unit in units(annexb(packet))]
        assert {7, 8} <= set(kinds)
        assert kinds.index(7) < kinds.index(8) < kinds.index(5 if packet is fed[0] else 1)
    video = GpuVideo(decoders, info)
    assert [picture for packet in fed[fed.index(keys[1]) :] for picture in video.decode(packet)]


def test_parameter_sets_that_change_within_the_packets_are_followed(
    decoders: FakeDecoders, tmp_path: Path
) -> None:
    options = {"bf": "0", "g": "4"}
    info, small = demuxed(write_clip(tmp_path / "a.ts", 8, size=(320, 180), options=options))
    _, large = demuxed(write_clip(tmp_path / "b.ts", 8, size=(640, 360), options=options))
    later = [replace(packet, sequence=packet.sequence + 8) for packet in large]
    video = GpuVideo(decoders, info)
    sizes = [
        (picture.width, picture.height)
        for packet in [*small, *later]
        for picture in video.decode(replace(packet, pts=packet.sequence, dts=packet.sequence))
    ]
    assert sizes[0] == (320, 180)
    assert sizes[-1] == (640, 360)


def test_an_empty_parameter_set_does_not_prevent_decoding(
    decoders: FakeDecoders, tmp_path: Path
) -> None:
    """Some cameras send one."""
    info, fed = demuxed(write_clip(tmp_path / "c.ts", 8, options={"bf": "0"}))
    in_band = GpuVideo(decoders, replace(info, extradata=b""))
    assert len([picture for packet in fed for picture in in_band.decode(packet)]) > 4
    padded = GpuVideo(decoders, replace(info, extradata=b"\0\0\0\1\0\0\0\1" + info.extradata))
    assert len([picture for packet in fed for picture in padded.decode(packet)]) > 4


def test_unsupported_streams_are_rejected(decoders: FakeDecoders, tmp_path: Path) -> None:
    info, _ = demuxed(write_clip(tmp_path / "c.mkv", 2, codec="mpeg4"))
    with pytest.raises(GpuUnavailableError, match="mpeg4 is not supported"):
        GpuVideo(decoders, info)
    with pytest.raises(GpuUnavailableError, match="rotated"):
        GpuVideo(decoders, stream_info(rotation=90))


def test_after_damage_no_picture_is_returned_before_a_key_frame(
    decoders: FakeDecoders, tmp_path: Path
) -> None:
    """The hardware hides damage, so packets that depend on a damaged one must not reach it."""
    info, fed = short_groups(tmp_path)
    video = GpuVideo(decoders, info)
    shown: list[int] = []
    for packet in fed:
        damaged = replace(packet, corrupt=packet.sequence == 3)
        with contextlib.suppress(GpuDecodeError):
            shown += [picture.packet.sequence for picture in video.decode(damaged)]
    assert shown == [0, 1, 2, *range(8, 20)]


def test_missing_packets_are_reported_to_the_decoder(
    decoders: FakeDecoders, tmp_path: Path
) -> None:
    info, fed = short_groups(tmp_path)
    video = GpuVideo(decoders, info)
    kept = [fed[0], fed[1], replace(fed[8], discontinuity=True), *fed[9:]]
    shown = [picture.packet.sequence for packet in kept for picture in video.decode(packet)]
    assert shown == [0, 1, *range(8, 20)]
    assert decoders.videos[0].gaps == 1


@pytest.mark.parametrize(
    ("luma", "chroma", "width", "height", "pitch"),
    [(0, 1920 * 1080, 1920, 1080, 1920), (4096, 4096 + 2048 * 1080, 1920, 1080, 2048)],
)
def test_the_pitch_of_nv12_follows_from_its_planes(
    luma: int, chroma: int, width: int, height: int, pitch: int
) -> None:
    assert nv12_pitch(luma, chroma, width, height) == pitch


@pytest.mark.parametrize("chroma", [1919 * 1080, 1920 * 1080 + 1, -5])
def test_surfaces_with_another_layout_are_rejected(chroma: int) -> None:
    with pytest.raises(ValueError, match="NV12"):
        nv12_pitch(0, chroma, 1920, 1080)
