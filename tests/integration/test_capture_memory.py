"""Cameras cannot exhaust the node's memory: frame sizes are limited, and a full /dev/shm is reported as a state."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tridetr.capture.capture_process
from support.capture_rig import Rig, capturing
from support.mjpeg_server import MjpegServer
from support.waiting import wait_for
from tridetr.shm import names
from tridetr.shm.boards import CameraState

_RNG = np.random.default_rng(0)


def jpegs(width: int, height: int) -> list[bytes]:
    """Ten pictures of noise over a gradient."""
    ramp = np.linspace(0, 200, width)[None, :] + np.zeros((height, 1))
    made = []
    for _ in range(10):
        file = io.BytesIO()
        noisy = (ramp + _RNG.integers(0, 40, (height, width))).astype(np.uint8)
        Image.fromarray(noisy).convert("RGB").save(file, "JPEG", quality=40)
        made.append(file.getvalue())
    return made


@pytest.fixture
def camera() -> Iterator[MjpegServer]:
    server = MjpegServer(jpegs(320, 240), fps=10)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def small_shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Three megabytes of memory for rings, instead of all of /dev/shm."""
    folder = tmp_path / "shm"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tridetr-test", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    monkeypatch.setattr(names, "SHM_DIR", folder)
    yield folder
    monkeypatch.undo()
    subprocess.run(["umount", "-l", str(folder)], check=True)


def used(folder: Path) -> int:
    stats = os.statvfs(folder)
    return (stats.f_blocks - stats.f_bfree) * stats.f_frsize


def width_of(rig: Rig) -> int:
    return rig.frames[-1].planes.shape[1] if rig.frames else 0


def test_a_picture_beyond_max_pixels_is_refused_with_the_reason(
    tmp_path: Path, camera: MjpegServer
) -> None:
    with capturing(tmp_path, camera.url, max_pixels=100_000) as rig:
        rig.wait_state(CameraState.LIVE)
        camera.jpegs[:] = jpegs(640, 480)
        status = rig.wait_state(CameraState.OFFLINE)
        assert "640x480" in status.message
        assert "max_pixels (100,000)" in status.message
        camera.jpegs[:] = jpegs(320, 240)
        rig.wait_state(CameraState.LIVE)
        assert {frame.planes.shape[1] for frame in rig.frames} == {320}


@pytest.mark.parametrize("size", [(17000, 16), (16, 17000), (1, 64)])
def test_a_picture_with_an_impossible_side_is_refused_with_the_reason(
    tmp_path: Path, camera: MjpegServer, size: tuple[int, int]
) -> None:
    """Such a picture has few pixels, but a ring cannot hold it: capture must not crash repeatedly."""
    with capturing(tmp_path, camera.url) as rig:
        rig.wait_state(CameraState.LIVE)
        camera.jpegs[:] = jpegs(*size)
        status = rig.wait_state(CameraState.OFFLINE)
        assert f"{size[0]}x{size[1]}" in status.message
        camera.jpegs[:] = jpegs(320, 240)
        rig.wait_state(CameraState.LIVE)


def test_frame_size_without_memory_is_reported_and_recovers(
    tmp_path: Path, camera: MjpegServer, small_shm: Path
) -> None:
    with capturing(tmp_path, camera.url) as rig:
        rig.wait_state(CameraState.LIVE)
        camera.jpegs[:] = jpegs(1280, 960)  # 11 MB for all slots
        status = rig.wait_state(CameraState.OFFLINE)
        assert "too small" in status.message
        assert rig.running
        camera.jpegs[:] = jpegs(320, 240)
        rig.wait_state(CameraState.LIVE)
        wait_for(lambda: width_of(rig) == 320, 10, "a frame of the old size")
        assert rig.running


def test_memory_freed_by_another_ring_is_used(
    tmp_path: Path, camera: MjpegServer, small_shm: Path
) -> None:
    ballast = small_shm / "ballast"
    ballast.write_bytes(bytes(2_900_000))
    with capturing(tmp_path, camera.url) as rig:
        rig.wait_state(CameraState.OFFLINE)
        assert rig.running
        ballast.unlink()
        rig.wait_state(CameraState.LIVE)


def test_offline_camera_frees_its_memory(
    tmp_path: Path, camera: MjpegServer, small_shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tridetr.capture.capture_process, "_KEEP_MEMORY_S", 0.5)
    with capturing(tmp_path, camera.url) as rig:
        rig.wait_state(CameraState.LIVE)
        rig.wait_frames(10)
        before = used(small_shm)
        camera.stop()
        rig.wait_state(CameraState.OFFLINE)
        wait_for(
            lambda: used(small_shm) < before - 1_000_000, 20, "the memory of the frames is free"
        )
        camera.start()
        rig.wait_state(CameraState.LIVE)
        rig.wait_frames(3)
        assert width_of(rig) == 320
