"""Demuxed packets in the ring: their content, codec strings, and parameters that change in mid-stream."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest
from prometheus_client import REGISTRY

from support.clips import picture, write_clip
from support.data import shared
from support.packets import through_ring
from tridetr.capture.packets import PacketSink
from tridetr.codec_string import codec_string, is_annexb
from tridetr.config import PacketsSection
from tridetr.errors import ShmError
from tridetr.shm.packets import PacketReader, PacketStamp, PacketWriter, VideoCodec


def demuxed(path: Path, form: str | None = None) -> Iterator[tuple[bytes, int | None, bool]]:
    with av.open(str(path), format=form) as container:
        for packet in container.demux(container.streams.video[0]):
            if packet.size:
                yield bytes(packet), packet.pts, packet.is_keyframe


def encoded(codec: str, size: tuple[int, int], count: int = 4) -> bytes:
    """Return an elementary stream."""
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height = size
    context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 25)
    context.options = {"preset": "ultrafast", "tune": "zerolatency"}
    data = b""
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.pts = number
        data += b"".join(bytes(packet) for packet in context.encode(frame))
    return data + b"".join(bytes(packet) for packet in context.encode(None))


@pytest.mark.parametrize(
    ("codec", "suffix", "string"),
    [
        ("libx264", "mp4", "avc1.64000d"),
        ("libx264", "mkv", "avc1.64000d"),
        ("libx264", "ts", "avc1.64000d"),
        ("libx265", "mp4", "hvc1.1.6.L60.90"),
        ("libx265", "ts", "hvc1.1.6.L60.90"),
        ("mjpeg", "mkv", ""),
        ("mpeg4", "mp4", ""),
    ],
)
def test_packets_are_published_as_they_were_demuxed(
    instance: str, tmp_path: Path, codec: str, suffix: str, string: str
) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    clip = write_clip(tmp_path / f"clip.{suffix}", 20, codec=codec, pix_fmt=pix_fmt)
    found = through_ring(instance, clip)
    assert [(packet.data, packet.pts, packet.is_key) for packet in found] == list(demuxed(clip))
    (info,) = {packet.info for packet in found}
    assert (info.width, info.height) == (320, 240)
    assert info.codec_string == string
    assert info.fps == pytest.approx(30)


def test_b_frames_are_announced(instance: str) -> None:
    found = through_ring(instance, shared("cases", "bframes.mkv"))
    assert {packet.info.reorder for packet in found} == {2}
    assert not found[0].info.is_annexb
    times = [packet.pts or 0 for packet in found]
    assert times != sorted(times)


@pytest.mark.parametrize(("encoder", "codec"), [("libx264", "h264"), ("libx265", "hevc")])
def test_parameters_that_change_in_mid_stream(
    instance: str, tmp_path: Path, encoder: str, codec: str
) -> None:
    """A camera whose resolution is changed continues in the same connection."""
    clip = tmp_path / "clip.bin"
    clip.write_bytes(
        encoded(encoder, (320, 240)) + encoded(encoder, (640, 480)) + encoded(encoder, (640, 480))
    )
    found = through_ring(instance, clip, codec)
    assert b"".join(packet.data for packet in found) == clip.read_bytes()
    sizes = [(packet.info.width, packet.info.height) for packet in found]
    assert sizes == [(320, 240)] * 4 + [(640, 480)] * 8
    generations = [packet.generation for packet in found]
    assert len(set(generations)) == 2
    assert generations[4] == found[4].sequence
    first, second = found[0].info, found[-1].info
    assert first.codec_string != second.codec_string
    assert second.codec_string == codec_string(codec, second.extradata)
    assert second.is_annexb


def test_a_second_connection_with_the_same_stream(instance: str, tmp_path: Path) -> None:
    """It continues with the same parameters, and marks that packets are missing."""
    clip = write_clip(tmp_path / "clip.mp4", 4)
    with (
        PacketSink(instance, "cam", PacketsSection()) as sink,
        PacketReader(instance, "cam") as reader,
    ):
        for _ in range(2):
            with av.open(str(clip)) as container:
                stream = container.streams.video[0]
                sink.open(stream)
                for packet in container.demux(stream):
                    if packet.size:
                        sink.put(packet, 1, 2)
        found = []
        while (seen := reader.read()) is not None:
            found.append(seen)
    assert len({packet.generation for packet in found}) == 1
    assert [packet.discontinuity for packet in found] == [True, False, False, False] * 2


def test_jpegs_of_a_camera(instance: str) -> None:
    with (
        PacketSink(instance, "cam", PacketsSection()) as sink,
        PacketReader(instance, "cam") as reader,
    ):
        sink.open_jpegs(640, 480, 30.0)
        sink.put_jpeg(memoryview(b"\xff\xd8one"), 5, 6)
        packet = reader.read()
    assert packet is not None
    assert packet.is_key
    assert packet.data == b"\xff\xd8one"
    assert (packet.codec, packet.info.width) == (VideoCodec.MJPEG, 640)
    assert packet.pts == 5


def test_capture_continues_without_a_ring(
    instance: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 4)
    with (
        PacketSink(instance, "cam", PacketsSection()) as other,
        PacketSink(instance, "cam", PacketsSection()) as sink,
        av.open(str(clip)) as container,
    ):
        stream = container.streams.video[0]
        other.open(stream)
        sink.open(stream)
        for packet in container.demux(stream):
            if packet.size:
                sink.put(packet, 1, 2)
    assert "already has a writer" in caplog.text


def test_the_ring_recovers_while_the_camera_stays_connected(
    instance: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the ring stops the packets only until the ring can be written again."""

    def errors() -> float:
        return REGISTRY.get_sample_value("tridetr_packet_ring_errors_total", {"camera": "cam"}) or 0

    before = errors()
    now_s = 1000.0
    monkeypatch.setattr("tridetr.capture.packets.time.monotonic", lambda: now_s)
    with (
        PacketSink(instance, "cam", PacketsSection()) as other,
        PacketSink(instance, "cam", PacketsSection()) as sink,
        PacketReader(instance, "cam") as reader,
    ):
        other.open_jpegs(64, 32, 10.0)
        sink.open_jpegs(640, 480, 10.0)
        for _ in range(50):
            sink.put_jpeg(memoryview(b"lost"), 1, 1)
        assert caplog.text.count("already has a writer") == 1  # not with each packet
        now_s += 1.5
        sink.put_jpeg(memoryview(b"lost"), 1, 1)
        assert caplog.text.count("already has a writer") == 2
        other.close()
        now_s += 1.5
        sink.put_jpeg(memoryview(b"lost"), 1, 1)  # the delay has grown
        assert reader.read() is None
        now_s += 1.0
        for _ in range(2):
            sink.put_jpeg(memoryview(b"back"), 2, 2)
        packet = reader.read()
        assert packet is not None
        assert (packet.data, packet.discontinuity, packet.info.width) == (b"back", True, 640)
        packet = reader.read()
        assert packet is not None
        assert not packet.discontinuity
    assert errors() - before == 2


@pytest.mark.parametrize(
    "error", [ShmError("another writer has the ring's name"), OSError(24, "Too many open files")]
)
def test_the_ring_recovers_from_an_error_in_mid_stream(
    instance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    now_s = 1000.0
    monkeypatch.setattr("tridetr.capture.packets.time.monotonic", lambda: now_s)
    clip = write_clip(tmp_path / "clip.ts", 40, options={"g": "10"})
    put, failures = PacketWriter.put, iter([False] * 3 + [True] + [False] * 50)

    def fails_once(writer: PacketWriter, data: memoryview, stamp: PacketStamp) -> int | None:
        if next(failures):
            raise error
        return put(writer, data, stamp)

    monkeypatch.setattr(PacketWriter, "put", fails_once)
    with (
        PacketSink(instance, "cam", PacketsSection()) as sink,
        av.open(str(clip)) as container,
        PacketReader(instance, "cam") as reader,
    ):
        stream = container.streams.video[0]
        sink.open(stream)
        found = []
        for packet in container.demux(stream):
            if packet.size:
                now_s += 0.1
                sink.put(packet, 1, 2)
            while (seen := reader.read()) is not None:
                found.append(seen)
    sent = list(demuxed(clip))
    assert 10 < len(found) < len(sent)
    assert found[3].is_key
    assert [packet.data for packet in found[3:]] == [data for data, _, _ in sent[3 - len(found) :]]
    assert [index for index, packet in enumerate(found) if packet.discontinuity] == [0, 3]


@pytest.mark.parametrize(
    "extradata", ["", "00000001", "0000000100", "0000000167", "0142", "00000001674200"]
)
def test_unknown_extradata_has_no_codec_string(extradata: str) -> None:
    data = bytes.fromhex(extradata)
    assert codec_string("h264", data) in ("", "avc1.4200")
    assert codec_string("hevc", data) == ""
    assert is_annexb(data) == (extradata != "0142")
