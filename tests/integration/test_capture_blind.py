"""A real camera stream with a covered lens: the status is blind, with the reason, until the camera sees again."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from prometheus_client import REGISTRY

from support.capture_rig import Rig, capturing
from support.mjpeg_server import MjpegServer
from support.waiting import wait_for
from tridetr.shm.boards import BlindReason, CameraState
from tridetr_demo.scene import SyntheticCamera

WIDTH, HEIGHT = 640, 360


def jpeg(luma: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(luma).save(file, "JPEG", quality=80)
    return file.getvalue()


def views(count: int) -> list[bytes]:
    camera = SyntheticCamera(WIDTH, HEIGHT, seed=1, scene="hall")
    frame = np.empty((HEIGHT * 3 // 2, WIDTH), np.uint8)
    pictures = []
    for number in range(count):
        camera.draw(number / 10, frame)
        pictures.append(jpeg(frame[:HEIGHT]))
    return pictures


def covers(count: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    noisy = [np.clip(rng.normal(14, 5, (HEIGHT, WIDTH)), 0, 255) for _ in range(count)]
    return [jpeg(picture.astype(np.uint8)) for picture in noisy]


def newest_is_doubtful(rig: Rig) -> bool:
    newest = rig.wait_frames(1)[0].stamp.capture_monotonic_ns
    status = rig.status()
    assert status is not None
    return newest <= status.doubtful_until_monotonic_ns


def test_a_covered_camera_is_blind_until_it_sees_again(tmp_path: Path) -> None:
    seen, covered = views(20), covers(20)
    server = MjpegServer(seen, fps=10)
    server.start()
    try:
        with capturing(tmp_path, server.url, blind_check=True) as rig:
            rig.wait_state(CameraState.LIVE)
            assert newest_is_doubtful(rig) is False
            server.jpegs[:] = covered
            wait_for(lambda: newest_is_doubtful(rig), what="the cover raises no doubt")
            status = rig.wait_state(CameraState.BLIND)
            assert status.blind_reason is BlindReason.COVERED
            assert "covered" in status.message
            labels = {"camera": rig.camera, "reason": "covered"}
            assert REGISTRY.get_sample_value("tridetr_camera_blind", labels) == 1
            rig.wait_frames(5)  # it keeps delivering frames
            server.jpegs[:] = seen
            assert rig.wait_state(CameraState.LIVE).blind_reason is BlindReason.NONE
            assert REGISTRY.get_sample_value("tridetr_camera_blind", labels) == 0
            wait_for(lambda: not newest_is_doubtful(rig), what="the doubt remains")
    finally:
        server.stop()


def test_the_check_can_be_turned_off(tmp_path: Path) -> None:
    server = MjpegServer(covers(20), fps=10)
    server.start()
    try:
        with capturing(tmp_path, server.url, blind_check=False) as rig:
            rig.wait_state(CameraState.LIVE)
            rig.wait_frames(80)
            assert rig.wait_state(CameraState.LIVE, 1).blind_reason is BlindReason.NONE
    finally:
        server.stop()
