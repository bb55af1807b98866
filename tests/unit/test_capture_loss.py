"""Pictures that lost packets have damaged are recognised, whatever the decoder makes of them."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import pytest

from support.clips import CAMERA_OPTIONS, write_clip
from support.lossy_rtsp import lossy_camera, rtp_packets
from tridetr.capture.sources import network, pump
from tridetr.capture.sources.base import CorruptFrameError, NoPictureYetError, SourceLostError
from tridetr.capture.sources.connect import connect
from tridetr.capture.sources.network import NetworkSource
from tridetr.capture.sources.playlist import PlayedSegments
from tridetr.capture.sources.pump import Arrival
from tridetr.capture.sources.video import CpuVideo
from tridetr.config import CameraSection
from tridetr.errors import SourceError
from tridetr.hang_up import HangUp

GROUP, COUNT = 6, 24


def clip(path: Path, codec: str, b_frames: int = 0) -> Path:
    """Write a clip of 24 pictures with a key frame every 6."""
    encoder = f"keyint={GROUP}:min-keyint={GROUP}:scenecut=0:bframes={b_frames}:b-adapt=0"
    options = {
        "libx265": {"x265-params": f"log-level=none:repeat-headers=1:open-gop=0:qp=12:{encoder}"},
        "libx264": {"x264-params": f"qp=12:{encoder}"},
    }[codec]
    return write_clip(path, COUNT, codec=codec, options=options | {"preset": "ultrafast"}, fps=10)


def seen(
    codec: Any,
    packets: Iterable[av.Packet[av.VideoStream]],
    interval_s: float = 0.1,
    restart: int | None = None,
) -> str:
    """Return a character for each picture: + is good, ? is doubtful, - is damaged.

    Args:
        codec: the decoder.
        packets: what it gets.
        interval_s: time between two packets [s].
        restart: index of the packet before which others are missing.
    """
    video = CpuVideo(cast(Any, SimpleNamespace(codec_context=codec)), 320 * 240)
    found = []
    for n, packet in enumerate(packets):
        try:
            for item in video.decode(
                Arrival(packet, n, round(n * interval_s * 1e9), n, n == restart)
            ):
                found.append("-" if item.picture is None else "?" if item.is_doubtful else "+")
        except CorruptFrameError:
            found.append("-")
    return "".join(found)


def received(url: str, transport: str, interval_s: float = 0.1) -> str:
    """Return a character for each picture of an RTSP camera (see `seen`)."""
    camera = {"source": url, "rtsp_transport": transport, "timeout_s": 1}
    section = CameraSection.model_validate(camera)
    feed = connect(section, HangUp(), PlayedSegments(), finds_gaps=True)
    assert feed.stream is not None
    packets = feed.packets(threading.Event())
    pictures = seen(feed.stream.codec_context, packets, interval_s)
    feed.close()
    return pictures


def starts(rtp: list[bytes]) -> list[int]:
    """Return the index of the first RTP packet of each picture."""
    times = [packet[4:8] for packet in rtp]
    return [n for n, time in enumerate(times) if n == 0 or time != times[n - 1]]


@pytest.mark.parametrize(
    ("encoder", "codec", "transport"),
    [("libx265", "hevc", "tcp"), ("libx265", "hevc", "udp"), ("libx264", "h264", "tcp")],
)
def test_pictures_after_a_lost_rtp_packet_are_doubtful(
    tmp_path: Path, encoder: str, codec: str, transport: str
) -> None:
    """FFmpeg's decoder of H.265 returned wrecked pictures like good ones."""
    rtp = rtp_packets(clip(tmp_path / "clip.ts", encoder))
    begins = starts(rtp)
    assert len(begins) == COUNT
    key = begins[2 * GROUP]
    assert begins[2 * GROUP + 1] - key >= 3  # RTP packets
    losses = {
        None: "+" * COUNT,
        key + 1: "+" * 2 * GROUP + "-" + "?" * (GROUP - 1) + "+" * GROUP,
    }
    for lost, expected in losses.items():
        with lossy_camera(rtp, {lost}, codec=codec) as url:
            assert received(url, transport) == expected


@pytest.mark.parametrize("copies", [2, 3])
@pytest.mark.parametrize(("encoder", "codec"), [("libx265", "hevc"), ("libx264", "h264")])
def test_packets_that_arrive_more_than_once_damage_the_picture(
    tmp_path: Path, encoder: str, codec: str, copies: int
) -> None:
    """FFmpeg takes in all; wrecked pictures of H.265 counted as good."""
    rtp = rtp_packets(clip(tmp_path / "clip.ts", encoder))
    begins = starts(rtp)
    twice = begins[2 * GROUP + 1] - 2
    with lossy_camera(rtp, (), codec=codec, doubled={twice}, copies=copies) as url:
        pictures = received(url, "udp")
    assert pictures == "+" * 2 * GROUP + "-" + "?" * (GROUP - 1) + "+" * GROUP
    with lossy_camera(rtp, (), codec=codec, doubled=range(len(rtp)), copies=copies) as url:
        assert "+" not in received(url, "udp")[GROUP:]


def test_copies_that_arrive_late_damage_nothing(tmp_path: Path) -> None:
    """FFmpeg leaves them out."""
    rtp = rtp_packets(clip(tmp_path / "clip.ts", "libx265"))
    doubled = range(0, len(rtp), 10)
    with lossy_camera(rtp, (), codec="hevc", doubled=doubled, delay=3) as url:
        assert received(url, "udp") == "+" * COUNT


@pytest.mark.parametrize(("encoder", "codec"), [("libx265", "hevc"), ("libx264", "h264")])
def test_only_a_key_frame_ends_the_doubt_however_far_away_it_is(
    tmp_path: Path, encoder: str, codec: str
) -> None:
    """After 10 s, what the lost packets had left counted as good: an empty room with a person in it."""
    rtp = rtp_packets(clip(tmp_path / "clip.ts", encoder))
    lost = starts(rtp)[2 * GROUP] + 1
    with lossy_camera(rtp, {lost}, codec=codec) as url:
        pictures = received(url, "tcp", interval_s=45 / GROUP)
    assert pictures == "+" * 2 * GROUP + "-" + "?" * (GROUP - 1) + "+" * GROUP


def encoded(path: Path, count: int, more: str) -> list[av.Packet[av.VideoStream]]:
    """Return the packets of an H.264 stream; `more` are parameters of x264."""
    options = {"x264-params": f"scenecut=0:{more}"}
    write_clip(path, count, options=CAMERA_OPTIONS | options, fps=10)
    with av.open(path) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize(("interval_s", "end"), [(1.0, 60), (0.1, 125)])
def test_a_stream_with_intra_refresh_is_good_after_a_whole_refresh(
    tmp_path: Path, interval_s: float, end: int
) -> None:
    packets = encoded(tmp_path / "clip.h264", 160, "keyint=20:intra-refresh=1")
    assert [n for n, packet in enumerate(packets) if packet.is_keyframe][:4] == [0, 20, 40, 60]
    packets[25].is_corrupt = True
    pictures = seen(av.CodecContext.create("h264", "r"), packets, interval_s)
    assert pictures == ("+" * 25 + "-").ljust(end, "?").ljust(160, "+")


def test_after_five_minutes_without_a_key_frame_doubt_lasts_ten_seconds(tmp_path: Path) -> None:
    """Some cameras refresh their pictures without any mark in the stream."""
    packets = encoded(tmp_path / "clip.h264", 100, "keyint=1000")
    packets[5].is_corrupt = packets[80].is_corrupt = True
    pictures = seen(av.CodecContext.create("h264", "r"), packets, 5.0)
    assert pictures == "+" * 5 + "-" + "?" * 54 + "+" * 20 + "-?" + "+" * 18


def unmarked(packet: av.Packet[av.VideoStream]) -> av.Packet[av.VideoStream]:
    """Return a packet without its recovery point."""
    units = re.split(rb"\x00*\x00\x00\x01", bytes(packet))
    return cast(
        "av.Packet[av.VideoStream]",
        av.Packet(b"".join(b"\0\0\0\1" + unit for unit in units if unit and unit[0] & 31 != 6)),
    )


def test_pictures_of_h264_before_any_key_frame_are_doubtful(tmp_path: Path) -> None:
    packets = encoded(tmp_path / "clip.h264", 160, "keyint=20:open-gop=1:bframes=2")
    marked = seen(av.CodecContext.create("h264", "r"), packets[5:])
    assert set(marked.lstrip("-")) == {"+"}
    packets = [unmarked(packet) for packet in packets]
    pictures = seen(av.CodecContext.create("h264", "r"), packets[5:])
    assert re.fullmatch(r"-+\?{90,100}\++", pictures)  # 10 s, and two of the intra pictures


@pytest.mark.parametrize("codec", ["mpeg4", "h263"])
@pytest.mark.parametrize("restart", [None, 2 * GROUP + 2])
def test_codecs_that_fill_up_with_grey_show_nothing_before_a_key_frame(
    tmp_path: Path, codec: str, restart: int | None
) -> None:
    """Pictures on grey counted as good, so that nobody was seen in them."""
    options = {"g": str(GROUP), "bf": "0", "sc_threshold": "1000000000"}
    path = write_clip(tmp_path / "clip.mov", COUNT, codec=codec, options=options, size=(352, 288))
    with av.open(path) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        keys = [n for n, packet in enumerate(packets) if packet.is_keyframe]
        assert keys == list(range(0, COUNT, GROUP))
        codec_context = container.streams.video[0].codec_context
        pictures = seen(codec_context, packets[2:], 5.0, restart)
    missing = GROUP - 2 + (0 if restart is None else GROUP - 4)
    assert pictures == "+" * (COUNT - 2 - missing)


def test_a_camera_with_mpeg4_is_offline_up_to_its_key_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "_KEY_FRAME_PATIENCE_S", 0.0)
    monkeypatch.setattr(network, "_UNSHOWN_SHARE", 0.1)
    path = tmp_path / "clip.mkv"
    options = {"g": "40", "bf": "0", "sc_threshold": "1000000000"}
    write_clip(path, 60, codec="mpeg4", options=options, fps=10)
    with av.open(path) as container:
        header = container.streams.video[0].codec_context.extradata
    assert header
    rtp = rtp_packets(path)
    joined = starts(rtp)[2]
    with lossy_camera(rtp[joined:], (), codec="mpeg4", header=header, interval_s=0.03) as url:
        source = NetworkSource(CameraSection(source=url), threading.Event())
        source.open()
        shown, messages = 0, set()
        with contextlib.suppress(SourceLostError):
            while True:
                try:
                    shown += source.next(0.1) is not None
                except NoPictureYetError as why:
                    messages.add(str(why))
        source.close()
    assert any("waiting for a key frame" in message for message in messages)
    assert shown == 20


def numbered(packet: bytes, number: int, payload_type: int = 96) -> bytes:
    marker = packet[1] & 128
    return packet[:1] + bytes([marker | payload_type]) + number.to_bytes(2, "big") + packet[4:]


def test_sequence_numbers_that_go_back_count_too(tmp_path: Path) -> None:
    """FFmpeg drops the packets until the numbers are higher again."""
    rtp = rtp_packets(clip(tmp_path / "clip.ts", "libx265"))
    begins = starts(rtp)
    back = begins[2 * GROUP + 1]
    shift = back - begins[2 * GROUP] + 1  # less than what follows
    rtp = [numbered(p, 1000 + n - (shift if n >= back else 0)) for n, p in enumerate(rtp)]
    with lossy_camera(rtp, {None}, codec="hevc") as url:
        pictures = received(url, "tcp")
    assert pictures.startswith("+" * 2 * GROUP)
    assert "+" not in pictures[2 * GROUP + 1 : -GROUP]
    assert pictures.endswith("+" * GROUP)


def test_numbers_of_other_packets_on_the_channel_do_not_make_a_camera_blind(tmp_path: Path) -> None:
    """Each picture seemed to be damaged, for good."""
    rtp: list[bytes] = []
    for n, packet in enumerate(rtp_packets(clip(tmp_path / "clip.ts", "libx264"))):
        rtp += numbered(packet, 1000 + n), numbered(packet[:20], 9000 + n, 97)
    with lossy_camera(rtp, {None}, codec="h264") as url:
        section = CameraSection.model_validate({"source": url, "timeout_s": 1})
        source = NetworkSource(section, threading.Event())
        assert [shown(source) for _ in range(3)] == [
            0,
            COUNT,
            0,
        ]  # each time, gaps are looked for first


def test_packets_in_disorder_do_not_end_the_search_for_losses(tmp_path: Path) -> None:
    """Wrecked pictures of H.265 counted as good in every second connection."""
    rtp = rtp_packets(clip(tmp_path / "clip.ts", "libx265"))
    blocks = [rtp[n : n + 3] for n in range(0, len(rtp), 3)]
    late = [packet for block in blocks for packet in (*block[1:], block[0])]
    with lossy_camera(late, (), codec="hevc") as url:
        source = NetworkSource(CameraSection(source=url, timeout_s=1), threading.Event())
        assert [shown(source), shown(source)] == [0, 0]


def test_a_short_connection_with_a_loss_does_not_hide_later_ones(tmp_path: Path) -> None:
    """No gap was looked for any more, so that wrecked pictures of H.265 counted as good."""
    rtp = rtp_packets(clip(tmp_path / "clip.ts", "libx265"))
    begins = starts(rtp)
    with lossy_camera(rtp[: begins[GROUP]], {begins[0] + 1}, codec="hevc") as url:
        source = NetworkSource(CameraSection(source=url, timeout_s=1), threading.Event())
        assert [shown(source), shown(source)] == [0, 0]


def shown(source: NetworkSource) -> int:
    """Return the number of good pictures of one connection."""
    source.open()
    found = 0
    try:
        while True:
            with contextlib.suppress(CorruptFrameError):
                grab = source.next(0.1)
                found += grab is not None and not grab.is_doubtful
    except SourceError:
        source.close()
    return found


def test_packets_that_are_lost_while_the_stream_is_opened_count_too(tmp_path: Path) -> None:
    """FFmpeg reads a second of H.264 before the stream is open."""
    rtp = rtp_packets(clip(tmp_path / "clip.ts", "libx264"))
    with lossy_camera(rtp, {starts(rtp)[GROUP + 1]}, codec="h264") as url:
        pictures = received(url, "tcp")
    assert pictures.endswith("+" * GROUP)
    assert "+" not in pictures[: 2 * GROUP]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (GROUP + 2, "+" * (GROUP + 2) + "---" + "+" * 2 * GROUP),
        (2 * GROUP, "+" * 2 * GROUP + "-----" + "+" * GROUP),
    ],
)
def test_pictures_of_h265_on_missing_references_are_damaged(
    tmp_path: Path, missing: int, expected: str
) -> None:
    """FFmpeg leaves them out without an error, as after packets that a server in between has dropped."""
    with av.open(clip(tmp_path / "clip.ts", "libx265")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    del packets[missing]
    assert seen(av.CodecContext.create("hevc", "r"), packets) == expected


def test_pictures_that_are_shown_before_a_damaged_one_can_be_built_on_it(tmp_path: Path) -> None:
    with av.open(clip(tmp_path / "clip.ts", "libx265", b_frames=2)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert set(seen(av.CodecContext.create("hevc", "r"), packets)) == {"+"}
    packets[GROUP + 1].is_corrupt = True
    pictures = seen(av.CodecContext.create("hevc", "r"), packets)
    assert pictures[: 2 * GROUP] == "+" * (GROUP + 1) + "??-??"
    assert set(pictures[2 * GROUP :]) == {"+"}
