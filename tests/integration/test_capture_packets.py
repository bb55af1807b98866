"""The packet ring of real sources: the camera's own packets, with the capture times of their frames."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from support.capture_rig import FakeController, Rig, capturing
from support.clips import decoded, jpegs, write_clip
from support.data import FOOTAGE, shared
from support.mjpeg_server import MjpegServer
from support.rtsp import rtsp_server
from support.waiting import wait_for
from tridetr.codec_string import units
from tridetr.shm.boards import SentryMode
from tridetr.shm.packets import Packet, PacketReader, VideoCodec


def wait_packets(rig: Rig, count: int) -> list[Packet]:
    """Return the first packets of a camera that is starting."""
    found: list[Packet] = []
    with PacketReader(rig.config.instance, rig.camera) as reader:

        def read() -> bool:
            while (packet := reader.read()) is not None:
                found.append(packet)
            return len(found) >= count

        wait_for(read, 30, f"{count} packets")
        assert reader.damaged == 0
    return found


def slices(data: bytes) -> list[str]:
    """Return the checksums of an H.264 packet's pictures: parameter sets may come with them or not."""
    return [hashlib.sha256(unit).hexdigest() for unit in units(data) if unit[0] & 31 in (1, 5)]


def annexb_of(path: Path) -> Iterator[bytes]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        to_annexb = BitStreamFilterContext("h264_mp4toannexb", stream)
        for packet in container.demux(stream):
            if packet.size:
                yield from (bytes(out) for out in to_annexb.filter(packet))


@pytest.mark.parametrize("name", [("cases", "bframes.mkv"), FOOTAGE])
def test_packets_of_a_file_have_the_times_of_its_frames(
    tmp_path: Path, name: tuple[str, ...]
) -> None:
    with capturing(tmp_path, shared(*name)) as rig:
        frames = rig.wait_frames(20)
        packets = wait_packets(rig, 20)
    assert not any(packet.lost for packet in packets)
    times = {packet.capture_unix_ns for packet in packets}
    captured = {frame.stamp.capture_unix_ns for frame in frames[:15]}
    assert captured <= times


def test_rtsp_packets_are_unchanged(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 90, options={"bf": "0", "g": "30"}, fps=30)
    with rtsp_server(clip) as server, capturing(tmp_path, server.url) as rig:
        frames = rig.wait_frames(60)
        packets = wait_packets(rig, 60)
    sent = [slices(data) for data in annexb_of(clip)]
    came = [slices(packet.data) for packet in packets]
    start = sent.index(came[0])
    assert came == sent[start : start + len(came)]
    assert packets[0].is_key
    assert [packet.discontinuity for packet in packets] == [True] + [False] * (len(packets) - 1)
    assert packets[0].info.codec_string.startswith("avc1.64")
    assert (packets[0].info.width, packets[0].info.height) == (320, 240)
    # Every frame that the detector gets has a packet with the same capture time.
    times = {packet.capture_unix_ns for packet in packets}
    assert {frame.stamp.capture_unix_ns for frame in frames[:50]} <= times


def test_http_jpegs_are_unchanged(tmp_path: Path) -> None:
    sent = jpegs(5)
    server = MjpegServer(sent)
    server.start()
    try:
        with capturing(tmp_path, server.url) as rig:
            packets = wait_packets(rig, 12)
    finally:
        server.stop()
    first = sent.index(packets[0].data)
    assert [packet.data for packet in packets] == [
        sent[(first + number) % 5] for number in range(len(packets))
    ]
    assert all(packet.is_key for packet in packets)
    assert packets[0].codec is VideoCodec.MJPEG


def test_only_key_frames_are_decoded_in_standby(tmp_path: Path) -> None:
    """On an alarm, the packets since the last key frame are decoded, and then every frame."""
    clip = write_clip(
        tmp_path / "clip.mp4", 300, options={"bf": "2", "g": "15", "sc_threshold": "0"}, fps=15
    )
    keys: dict[str, Any] = {"sentry": {"standby_decode": "keyframes", "standby_fps": 120}}
    with rtsp_server(clip) as server, capturing(tmp_path, server.url, **keys) as rig:
        controller = FakeController(rig)
        controller.write(SentryMode.STANDBY)
        rig.wait_frames(4)
        calm = rig.wait_frames(4)
        gaps = np.diff([frame.stamp.capture_monotonic_ns for frame in calm]) / 1e9
        assert gaps == pytest.approx([1.0] * 3, abs=0.3), "one key frame a second"
        controller.write(SentryMode.ALARMED)
        rig.wait_frames(2)
        alarmed = rig.wait_frames(20)
        controller.close()
    gaps = np.diff([frame.stamp.capture_monotonic_ns for frame in alarmed]) / 1e9
    assert np.median(gaps) == pytest.approx(1 / 15, abs=0.03)
    # Frames decoded in the middle of a group of pictures are not torn.
    truth = [plane.astype(int) for plane in decoded(clip)]
    for frame in (*calm[:2], *alarmed[:3]):
        assert min(np.abs(plane - frame.planes).mean() for plane in truth) < 3
    assert rig.skipped("lost") == 0
