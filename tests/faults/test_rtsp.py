"""An RTSP camera that returns with another picture size, sends damaged packets, or is cut off: sequences and state."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from support.capture_rig import capturing
from support.clips import CAMERA_OPTIONS, write_clip
from support.faults import record
from support.relay import relay_to
from support.rtsp import rtsp_server
from tridetr.shm.boards import CameraState


@pytest.mark.timeout(240)
def test_another_size_after_a_restart_creates_a_new_generation(tmp_path: Path) -> None:
    small = write_clip(tmp_path / "small.mp4", 100, options=CAMERA_OPTIONS, fps=10)
    large = write_clip(
        tmp_path / "large.mp4", 100, options=CAMERA_OPTIONS, fps=10, size=(1280, 720)
    )
    with rtsp_server(small) as server, capturing(tmp_path, server.url, timeout_s=2) as rig:
        first = rig.wait_frames(3, 30)
        server.kill()
        rig.wait_state(CameraState.OFFLINE, 20)
        server.arguments[0] = str(large)
        server.start()
        began_s = time.monotonic()
        rig.wait_state(CameraState.LIVE, 30)
        again = rig.wait_frames(3, 30)
        record("rtsp: live with another size after a restart", time.monotonic() - began_s)
    assert first[0].planes.shape != again[-1].planes.shape
    assert again[-1].planes.shape == (1080, 1280)
    assert again[-1].generation == first[0].generation + 1
    sequences = [frame.sequence for frame in rig.frames]
    assert sequences == sorted(set(sequences)), "sequences must continue across generations"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("share", [0.0005, pytest.param(0.5, marks=pytest.mark.long_faults)])
def test_damaged_packets_never_end_the_capture(tmp_path: Path, share: float) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 600, options=CAMERA_OPTIONS, fps=10)
    with rtsp_server(clip) as server, relay_to(server.port) as relay:
        url = f"rtsp://127.0.0.1:{relay.port}/video"
        with capturing(tmp_path, url, timeout_s=2) as rig:
            rig.wait_frames(3, 30)
            relay.damage = share
            damaged_s = time.monotonic()
            while time.monotonic() - damaged_s < 5:
                assert rig.running, rig.errors
                time.sleep(0.1)
            relay.damage = 0.0
            healed_s = time.monotonic()
            rig.wait_frames(5, 40)
            rig.wait_state(CameraState.LIVE, 20)
            record(f"rtsp: live after {share:.2%} damaged bytes", time.monotonic() - healed_s)
            sizes = {frame.planes.shape for frame in rig.frames}
            assert all(height < 10_000 and width < 10_000 for height, width in sizes)


@pytest.mark.timeout(240)
def test_a_camera_is_offline_while_its_network_is_cut(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 600, options=CAMERA_OPTIONS, fps=10)
    with rtsp_server(clip) as server, relay_to(server.port) as relay:
        url = f"rtsp://127.0.0.1:{relay.port}/video"
        with capturing(tmp_path, url, timeout_s=2) as rig:
            rig.wait_frames(3, 30)
            relay.cut()
            rig.wait_state(CameraState.OFFLINE, 20)
            relay.mend()
            mended_s = time.monotonic()
            rig.wait_state(CameraState.LIVE, 30)
            record("rtsp: live after a network cut", time.monotonic() - mended_s)
