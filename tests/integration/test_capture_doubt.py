"""Pictures that may not show the scene: their capture times are on the board before anyone can decide on them."""

from __future__ import annotations

from pathlib import Path

from support.capture_rig import capturing
from support.clips import CAMERA_OPTIONS, write_clip
from support.lossy_rtsp import lossy_camera, rtp_packets


def test_pictures_after_a_lost_packet_are_doubtful_on_the_board(tmp_path: Path) -> None:
    clip = write_clip(
        tmp_path / "clip.ts", 60, options=CAMERA_OPTIONS | {"x264-params": "keyint=300"}, fps=10
    )
    rtp = rtp_packets(clip)
    times = sorted({packet[4:8] for packet in rtp})
    lost = {n for n, packet in enumerate(rtp) if packet[4:8] == times[10]}
    with (
        lossy_camera(rtp, lost, codec="h264", interval_s=0.03) as url,
        capturing(tmp_path, url) as rig,
    ):
        first, *_, last = rig.wait_frames(20)
        status = rig.status()
        assert status is not None
        assert status.doubtful_until_monotonic_ns > first.stamp.capture_monotonic_ns
        assert status.doubtful_until_monotonic_ns >= last.stamp.capture_monotonic_ns
