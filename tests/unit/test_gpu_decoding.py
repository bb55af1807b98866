"""Decoding on the GPU, on a fake one: the same pixels as the CPU gives, and the CPU where it does not work."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.clips import jpegs, write_clip
from support.fake_cuda import FakeCuda
from support.fake_gpu import FakeDecoders, Plane
from tridetr.capture.gpu import cuda_gpu
from tridetr.capture.gpu.annexb import AnnexB
from tridetr.capture.gpu.api import GpuUnavailableError
from tridetr.capture.gpu.choice import open_decoders, wants_gpu
from tridetr.capture.gpu.jpeg import GpuJpegDecoder
from tridetr.capture.gpu.layout import Subsampling, nv12_pitch, plan_jpeg
from tridetr.capture.gpu.video import GpuGaveUpError, GpuVideo
from tridetr.capture.planes import copy_picture, even_size
from tridetr.capture.sources.av import open_video, packets
from tridetr.capture.sources.base import CorruptFrameError, Picture
from tridetr.capture.sources.jpeg_decoder import JpegDecoder
from tridetr.capture.sources.pump import Arrival
from tridetr.capture.sources.video import CpuVideo
from tridetr.config import Config


@pytest.fixture
def decoders(tmp_path: Path) -> Iterator[FakeDecoders]:
    made = FakeDecoders(FakeCuda(tmp_path))
    yield made
    made.close()


@dataclass
class Target:
    """Device memory of a slot."""

    memory: Plane
    stream: int
    device_id: int = 0
    host_wanted: bool = False

    @property
    def pointer(self) -> int:
        return int(self.memory.ctypes.data)

    @property
    def nbytes(self) -> int:
        return self.memory.size

    def mark_written(self, host: bool) -> None:
        raise AssertionError("that is the publisher's to say")


def on_host(picture: Picture) -> Plane:
    """Return a picture as capture lays it without device memory."""
    width, height = even_size(picture.width, picture.height)
    planes = np.zeros((height * 3 // 2, width), np.uint8)
    if picture.device is not None:
        picture.device.to_host(planes)
        return planes
    luma, chroma = width * height, width * height // 4
    flat = planes.reshape(-1)
    copy_picture(
        picture,
        flat[:luma].reshape(height, width),
        flat[luma : luma + chroma].reshape(height // 2, width // 2),
        flat[luma + chroma :].reshape(height // 2, width // 2),
    )
    return planes


def on_device(decoders: FakeDecoders, picture: Picture) -> Plane:
    """Return a picture as it lies in a slot's device memory."""
    assert picture.device is not None
    width, height = even_size(picture.width, picture.height)
    target = Target(np.zeros(width * height * 3 // 2, np.uint8), decoders.gpu.cuda.make_stream())
    picture.device.to_device(target)
    rows = picture.device.luma_rows(8)  # waits for the stream
    decoders.gpu.cuda.free_stream(target.stream)
    planes = target.memory.reshape(height * 3 // 2, width)
    assert np.array_equal(rows, planes[:height:8])
    return planes


@pytest.mark.parametrize("pix_fmt", ["yuvj420p", "yuvj422p"])
@pytest.mark.parametrize("size", [(320, 240), (64, 48), (322, 242), (321, 241), (320, 241)])
def test_jpegs_have_the_pixels_that_the_cpu_gives(
    decoders: FakeDecoders, pix_fmt: str, size: tuple[int, int]
) -> None:
    (data,) = jpegs(1, size=size, pix_fmt=pix_fmt)
    expected = JpegDecoder().decode(data)
    picture = GpuJpegDecoder(decoders).decode(data)
    assert (picture.color_range, picture.color_matrix) == (
        expected.color_range,
        expected.color_matrix,
    )
    assert np.array_equal(on_device(decoders, picture), on_host(expected))
    assert np.array_equal(on_host(picture), on_host(expected))


def test_420_of_even_size_needs_no_copy() -> None:
    plan = plan_jpeg(Subsampling.S420, 640, 480, 1 << 20, 0)
    assert plan.copies == ()
    (y, pitch), (u, half), (v, _) = plan.channels
    assert (y, u - y, v - u, pitch, half) == (1 << 20, 640 * 480, 320 * 240, 640, 320)
    with pytest.raises(ValueError, match="4:2:0 and 4:2:2"):
        plan_jpeg(Subsampling.OTHER, 640, 480, 0, 0)


def test_jpegs_that_the_gpu_does_not_know_are_decoded_on_the_cpu(
    decoders: FakeDecoders, caplog: pytest.LogCaptureFixture
) -> None:
    decoder = GpuJpegDecoder(decoders)
    for data in jpegs(3, pix_fmt="yuvj444p"):
        picture = decoder.decode(data)
        assert picture.device is None
        assert picture.planes
    assert [r.message.count("4:2:0") for r in caplog.records if "GPU" in r.message] == [1]


def test_without_nvjpeg_the_cpu_decodes(tmp_path: Path) -> None:
    decoder = GpuJpegDecoder(FakeDecoders(FakeCuda(tmp_path), "jpeg"))
    assert decoder.decode(jpegs(1)[0]).device is None


def test_damaged_jpegs_are_refused_and_many_of_them_end_the_trust(
    decoders: FakeDecoders, caplog: pytest.LogCaptureFixture
) -> None:
    decoder = GpuJpegDecoder(decoders)
    good, damaged = jpegs(1)[0], jpegs(1)[0][:400]
    for _ in range(14):
        with pytest.raises(CorruptFrameError):
            decoder.decode(damaged)
    on_host(decoder.decode(good))  # counts from the start again
    for _ in range(14):
        with pytest.raises(CorruptFrameError):
            decoder.decode(damaged)
    assert decoder.decode(good).device is not None
    with pytest.raises(CorruptFrameError):
        decoder.decode(damaged)
    assert decoder.decode(good).device is None
    assert sum("the CPU decodes" in record.message for record in caplog.records) == 1


def arrivals(file: Path) -> tuple[Any, list[Arrival]]:
    _, stream = open_video(str(file), shown=file.name, options={}, timeout_s=5)
    container = stream.container
    found = [
        Arrival(packet, index, 10**9 + index, 0, False)
        for index, packet in enumerate(packets(container, stream))
    ]
    return stream, found


CLIPS = [
    ("clip.mkv", "libx264", {"bf": "0"}),  # lengths instead of start codes
    ("clip.ts", "libx264", {"bf": "0"}),  # start codes
    ("clip.mkv", "libx264", {"bf": "2"}),  # later pictures first
    ("clip.mp4", "libx265", {"x265-params": "log-level=none:bframes=0"}),
]


@pytest.mark.parametrize(("name", "codec", "options"), CLIPS)
def test_video_has_the_pixels_and_times_that_the_cpu_gives(
    decoders: FakeDecoders, tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    file = write_clip(tmp_path / name, 12, codec=codec, size=(320, 180), options=options)
    stream, fed = arrivals(file)
    gpu = GpuVideo(decoders, stream)
    seen: dict[int, Plane] = {}
    for arrival in fed:
        for decoded in gpu.decode(arrival):
            assert decoded.picture is not None
            seen[decoded.arrival.index] = on_device(decoders, decoded.picture())
    stream, fed = arrivals(file)
    cpu = CpuVideo(stream)
    expected: dict[int, Plane] = {}
    for arrival in fed:
        for decoded in cpu.decode(arrival):
            assert decoded.picture is not None
            expected[decoded.arrival.index] = on_host(decoded.picture())
    assert list(seen) == list(expected)  # in the same order
    assert len(seen) >= 8
    for index, planes in seen.items():
        assert np.array_equal(planes, expected[index])


@given(st.sampled_from(["h264", "hevc"]), st.binary(max_size=60), st.binary(max_size=60))
@example("h264", bytes.fromhex("0164001fffe1000a"), b"")
@example("hevc", bytes(22) + b"\xff", b"")
def test_damaged_parameter_sets_and_packets_are_known_errors(
    codec: str, extradata: bytes, packet: bytes
) -> None:
    with contextlib.suppress(ValueError):
        AnnexB(codec, extradata)(packet, is_key=True)


def test_streams_that_the_gpu_does_not_know_are_refused(
    decoders: FakeDecoders, tmp_path: Path
) -> None:
    for codec, pix_fmt in (("mpeg4", "yuv420p"), ("libx264", "yuv422p")):
        file = write_clip(tmp_path / f"{codec}.mkv", 2, codec=codec, pix_fmt=pix_fmt)
        with pytest.raises(GpuUnavailableError, match="not decoded there"):
            GpuVideo(decoders, arrivals(file)[0])


def test_after_damage_nothing_is_shown_before_a_key_frame(
    decoders: FakeDecoders, tmp_path: Path
) -> None:
    """The hardware hides damage, so what refers to a damaged packet must not reach it."""
    file = write_clip(tmp_path / "c.mkv", 20, options={"g": "8", "bf": "0", "sc_threshold": "0"})
    stream, fed = arrivals(file)
    video = GpuVideo(decoders, stream)
    shown = []
    for arrival in fed:
        arrival.packet.is_corrupt = arrival.index == 3
        try:
            shown += [decoded.arrival.index for decoded in video.decode(arrival)]
        except CorruptFrameError:
            continue
    assert shown == [0, 1, 2, *range(8, 20)]


def test_packets_that_are_missing_start_the_decoder_anew(
    decoders: FakeDecoders, tmp_path: Path
) -> None:
    file = write_clip(tmp_path / "c.mkv", 20, options={"g": "8", "bf": "0", "sc_threshold": "0"})
    stream, fed = arrivals(file)
    video = GpuVideo(decoders, stream)
    kept = [fed[0], fed[1], Arrival(fed[8].packet, 8, 1, 1, True), *fed[9:]]
    shown = [decoded.arrival.index for arrival in kept for decoded in video.decode(arrival)]
    assert shown == [0, 1, *range(8, 20)]
    assert decoders.videos[0].gaps == 1


def test_a_stream_that_is_refused_again_and_again_goes_to_the_cpu(
    decoders: FakeDecoders, tmp_path: Path
) -> None:
    file = write_clip(tmp_path / "c.mkv", 30, options={"g": "1"})
    stream, fed = arrivals(file)
    video = GpuVideo(decoders, stream)
    for arrival in fed[:15]:
        packet = type(arrival.packet)(b"\0\0\0\1\x65nonsense")
        packet.is_keyframe = True
        error = CorruptFrameError if arrival.index < 14 else GpuGaveUpError
        with pytest.raises(error, match="packet"):
            video.decode(Arrival(packet, arrival.index, 0, 0, False))


@pytest.mark.parametrize(
    ("luma", "chroma", "width", "height", "pitch"),
    [(0, 1920 * 1080, 1920, 1080, 1920), (4096, 4096 + 2048 * 1080, 1920, 1080, 2048)],
)
def test_nv12_pitch(luma: int, chroma: int, width: int, height: int, pitch: int) -> None:
    assert nv12_pitch(luma, chroma, width, height) == pitch


@pytest.mark.parametrize("chroma", [1919 * 1080, 1920 * 1080 + 1, -5])
def test_surfaces_of_another_layout_are_refused(chroma: int) -> None:
    with pytest.raises(ValueError, match="NV12"):
        nv12_pitch(0, chroma, 1920, 1080)


def camera(decode: str, source: str = "rtsp://c/1", device: str = "auto") -> Config:
    return Config.model_validate(
        {"device": device, "cameras": {"c": {"source": source, "decode": decode}}}
    )


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (camera("cpu"), False),
        (camera("gpu"), True),
        (camera("auto"), True),
        (camera("gpu", device="cpu"), False),
        (camera("gpu", source="synthetic"), False),
        (Config.model_validate({"cameras": {"c": {"source": "a.mp4"}}}), False),  # the default
    ],
)
def test_where_a_camera_is_decoded(config: Config, wanted: bool) -> None:
    assert wants_gpu(config, "c") is wanted


@pytest.mark.parametrize(("decode", "level"), [("gpu", logging.WARNING), ("auto", logging.INFO)])
def test_a_gpu_that_is_not_there_is_said_once(
    caplog: pytest.LogCaptureFixture, decode: str, level: int
) -> None:
    def fails() -> FakeDecoders:
        raise GpuUnavailableError("no GPU in this test")

    with caplog.at_level(logging.INFO):
        assert open_decoders(camera(decode), "c", fails) is None
    (record,) = [r for r in caplog.records if "no GPU in this test" in r.message]
    assert record.levelno == level


def test_this_machine_says_why_it_cannot(caplog: pytest.LogCaptureFixture) -> None:
    try:
        cuda_gpu.CudaDecoders()
    except GpuUnavailableError as error:
        reason = str(error)
    else:
        pytest.skip("there is a GPU")
    assert open_decoders(camera("gpu"), "c") is None
    assert reason in caplog.text
