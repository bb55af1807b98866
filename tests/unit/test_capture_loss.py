"""Pictures that lost packets have damaged are recognised, whatever the decoder makes of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import pytest

from support.clips import write_clip
from support.lossy_rtsp import lossy_camera, rtp_packets
from tridetr.capture.sources.base import CorruptFrameError
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


def seen(codec: Any, packets: Iterable[av.Packet[av.VideoStream]]) -> str:
    """Return a character for each picture: + is good, ? is doubtful, - is damaged."""
    video = CpuVideo(cast(Any, SimpleNamespace(codec_context=codec)), 320 * 240)
    found = []
    for n, packet in enumerate(packets):
        try:
            for item in video.decode(Arrival(packet, n, n * 10**8, n, False)):
                found.append("-" if item.picture is None else "?" if item.is_doubtful else "+")
        except CorruptFrameError:
            found.append("-")
    return "".join(found)


def received(url: str, transport: str) -> str:
    """Return a character for each picture of an RTSP camera (see `seen`)."""
    camera = {"source": url, "rtsp_transport": transport, "timeout_s": 1}
    section = CameraSection.model_validate(camera)
    feed = connect(section, HangUp(), PlayedSegments(), finds_gaps=True)
    assert feed.stream is not None
    pictures = seen(feed.stream.codec_context, feed.packets(threading.Event()))
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
        assert [shown(source), shown(source)] == [0, COUNT]


def shown(source: NetworkSource) -> int:
    """Return the number of pictures of one connection."""
    source.open()
    found = 0
    try:
        while True:
            with contextlib.suppress(CorruptFrameError):
                found += source.next(0.1) is not None
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
