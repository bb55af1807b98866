"""Runs inside the virtual machine: a USB camera that delivers MJPEG, read by the kernel's uvcvideo."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from guest_capture import fork_tridetr
from PIL import Image
from usb_camera import MJPEG_FORMAT, UsbCamera

from support.waiting import wait_for
from tridetr.capture.devices import list_cameras
from tridetr.capture.planes import copy_picture
from tridetr.capture.sources.base import CorruptFrameError, Grab, SourceLostError
from tridetr.capture.sources.v4l2 import V4l2Source
from tridetr.capture.v4l2.modes import Wish, choose
from tridetr.config.camera_sections import CameraSection
from tridetr.errors import SourceError
from tridetr.shm.frames import ColorRange, FrameReader
from tridetr.shm.names import unlink_instance
from tridetr.shm.packets import PacketReader, VideoCodec

GREY_STEPS = 8
NAME = "Software camera"


@cache
def jpeg_of(shift: int, size: tuple[int, int]) -> bytes:
    """Return a 4:2:2 JPEG of grey steps."""
    width, height = size
    row = np.repeat(np.linspace(16, 240, GREY_STEPS).astype(np.uint8), width // GREY_STEPS)
    row = np.roll(row, shift * (width // GREY_STEPS))
    file = io.BytesIO()
    Image.fromarray(np.tile(row, (height, 1))).convert("RGB").save(
        file, "JPEG", quality=90, subsampling=1
    )
    return file.getvalue()


class Footage:
    """What the camera shows: frames, kept as they were sent, one of them damaged on demand."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.damage_next = False

    def __call__(self, number: int, form: int, size: tuple[int, int]) -> bytes:
        if form != MJPEG_FORMAT:
            width, height = size
            return bytes((16 + number % 200, 128)) * (width * height)
        frame = jpeg_of(number % GREY_STEPS, size)
        if self.damage_next:
            self.damage_next = False
            frame = frame[: len(frame) // 3]
        self.sent.append(frame)
        return frame


@pytest.fixture(scope="module")
def footage() -> Footage:
    return Footage()


@pytest.fixture(scope="module")
def usb_camera(footage: Footage) -> Iterator[UsbCamera]:
    with UsbCamera(footage) as camera:
        plugged_in()
        yield camera


def plugged_in() -> str:
    """Return the device file of the USB camera's pictures, once it is there."""

    def find() -> str:
        for node in sorted(Path("/sys/class/video4linux").iterdir()):
            first = (node / "index").read_text().strip() == "0"  # the other one is for metadata
            device = Path("/dev") / node.name
            if first and (node / "name").read_text().strip() == NAME and device.exists():
                return str(device)
        return ""

    return wait_for(find, 20, "the USB camera")


def source_for(**keys: object) -> V4l2Source:
    return V4l2Source(CameraSection(source=plugged_in(), **keys), threading.Event())


def next_frame(source: V4l2Source) -> Grab:
    grab = source.next(10.0)
    assert grab is not None
    return grab


def test_mjpeg_is_decoded_and_passed_on(usb_camera: UsbCamera, footage: Footage) -> None:
    source = source_for(width=640, height=360)
    try:
        info = source.open()
        assert (info.fps, info.capture_clock) == (25.0, "device")
        assert "MJPG 640x360" in info.description
        for _ in range(3):
            grab = next_frame(source)
            assert grab.jpeg is not None
            sent = bytes(grab.jpeg)
            assert sent in footage.sent
            assert 0 < time.monotonic_ns() - grab.monotonic_ns < 5e9
            picture = grab.decode()
            assert picture.color_range is ColorRange.FULL
            y = np.zeros((360, 640), np.uint8)
            u, v = (np.zeros((180, 320), np.uint8) for _ in "uv")
            copy_picture(picture, y, u, v)
            shown = np.asarray(Image.open(io.BytesIO(sent)).convert("L"), np.int16)
            assert np.abs(y - shown).max() <= 2
            assert np.abs(u.astype(np.int16) - 128).max() <= 2
            assert np.abs(v.astype(np.int16) - 128).max() <= 2
    finally:
        source.close()


def test_damaged_frame_is_reported_and_the_next_one_comes(
    usb_camera: UsbCamera, footage: Footage
) -> None:
    source = source_for(width=640, height=360)
    source.open()
    try:
        next_frame(source).decode()
        footage.damage_next = True
        with pytest.raises(CorruptFrameError):  # noqa: PT012
            while footage.sent:
                next_frame(source).decode()
        assert next_frame(source).decode().width == 640
    finally:
        source.close()


def test_yuyv_of_the_same_camera(usb_camera: UsbCamera) -> None:
    source = source_for(width=640, height=360, pixel_format="yuyv")
    try:
        source.open()
        grab = next_frame(source)
        assert grab.jpeg is None
        picture = grab.decode()
    finally:
        source.close()
    assert picture.planes[0].shape == (360, 1280)
    assert len(np.unique(picture.planes[0][:, ::2])) == 1


def test_unplugged_usb_camera_is_lost_and_comes_back(usb_camera: UsbCamera) -> None:
    source = source_for(width=640, height=360)
    source.open()
    before = next_frame(source)
    usb_camera.unplug()
    started = time.monotonic()
    try:
        with pytest.raises(SourceLostError, match="gone"):  # noqa: PT012
            while source.next(60.0):
                pass
        assert time.monotonic() - started < 15  # noticed, not timed out
        source.close()
        with pytest.raises(SourceError, match=r"does not exist|its camera is gone"):
            source.open()
    finally:
        usb_camera.plug()
    plugged_in()
    source.open()  # under the same number, though `before` is still held
    after = next_frame(source)
    assert after.number > before.number
    assert after.decode().width == 640
    source.close()


def test_capture_process_keeps_the_cameras_jpegs(
    usb_camera: UsbCamera, footage: Footage, tmp_path: Path
) -> None:
    section = {"source": plugged_in(), "width": 640, "height": 360}
    config = tmp_path / "node.yaml"
    config.write_text(yaml.safe_dump({"instance": "vmjpeg", "cameras": {"usb": section}}))
    log = tmp_path / "log"
    process = fork_tridetr(["capture", "usb", "--config", str(config)], log)
    try:
        with (
            FrameReader("vmjpeg", "usb", "gateway") as frames,
            PacketReader("vmjpeg", "usb") as packets,
        ):
            with wait_for(lambda: frames.lease_newest(), 60, "a frame") as lease:
                assert bytes(lease.jpeg) in footage.sent
                assert lease.stamp.color_range is ColorRange.FULL
                shown = Image.open(io.BytesIO(lease.jpeg)).convert("L")
                luma = lease.planes[:360].astype(np.int16)
                assert np.abs(luma - np.asarray(shown, np.int16)).max() <= 2
            # The same JPEGs, as packets with the driver's times, each of which decoding can start at
            found = [wait_for(packets.read, 30, "a packet") for _ in range(10)]
            assert all(packet.data in footage.sent and packet.is_key for packet in found)
            assert {packet.codec for packet in found} == {VideoCodec.MJPEG}
            assert (found[0].info.width, found[0].info.height) == (640, 360)
            times = [packet.capture_monotonic_ns for packet in found]
            assert times == sorted(set(times))
            with wait_for(lambda: frames.lease_newest(), 30, "a frame") as lease:
                captured = lease.stamp.capture_monotonic_ns
            while times[-1] < captured:
                times.append(wait_for(packets.read, 30, "a packet").capture_monotonic_ns)
            assert captured in times
        process.terminate()
        process.join(10)
        assert process.exitcode == 0
    finally:
        print(log.read_text())
        process.kill()
        process.join()
        unlink_instance("vmjpeg")


def test_usb_camera_is_listed_once_and_its_metadata_refused(usb_camera: UsbCamera) -> None:
    cameras = list_cameras()
    (camera,) = [camera for camera in cameras if camera.driver == "uvcvideo"]
    assert (camera.path, camera.name) == (plugged_in(), NAME)
    assert {mode.fourcc for mode in camera.modes} == {"MJPG", "YUYV"}
    choice = choose(camera.modes, Wish())
    assert choice is not None
    assert (choice.mode.fourcc, choice.mode.width, choice.mode.height) == ("MJPG", 1280, 720)
    assert choice.fps == 25
    listed = {camera.path for camera in cameras}
    (hidden,) = [str(path) for path in Path("/dev").glob("video*") if str(path) not in listed]
    with pytest.raises(SourceError, match="does not capture video"):
        V4l2Source(CameraSection(source=hidden), threading.Event()).open()
