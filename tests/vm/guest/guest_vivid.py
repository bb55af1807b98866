"""Runs inside the virtual machine: V4L2 cameras of the kernel's vivid driver."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tridetr.capture.devices import list_cameras
from tridetr.capture.planes import copy_picture
from tridetr.capture.sources.base import Grab, Plane, SourceLostError
from tridetr.capture.sources.v4l2 import V4l2Source
from tridetr.capture.v4l2.modes import Wish, choose
from tridetr.config.camera_sections import CameraSection
from tridetr.errors import SourceError
from tridetr.shm.frames import ColorMatrix, ColorRange

DRIVER = Path("/sys/bus/platform/drivers/vivid")
# vivid's first test pattern, from left to right: 75 % of white, yellow, cyan, green, magenta, red,
# blue, and black
BARS = [(c & 1, c >> 1 & 1, c >> 2 & 1) for c in (7, 3, 6, 2, 5, 1, 4, 0)]


@pytest.fixture
def camera() -> str:
    """The path of vivid's first capture device: nothing else was there when it was loaded."""
    return "/dev/video0"


def source_for(camera: str, **keys: object) -> V4l2Source:
    return V4l2Source(CameraSection(source=camera, **keys), threading.Event())


@contextmanager
def opened(source: V4l2Source) -> Iterator[V4l2Source]:
    source.open()
    try:
        yield source
    finally:
        source.close()


def next_frame(source: V4l2Source) -> Grab:
    grab = source.next(10.0)
    assert grab is not None
    return grab


def bar_colours(y: Plane, u: Plane, v: Plane) -> list[tuple[int, ...]]:
    """Return the RGB colours in the middle of the eight bars, in the lower part of the picture."""
    height, width = y.shape
    colours = []
    for bar in range(8):
        row, column = height * 3 // 4, (2 * bar + 1) * width // 16
        luma = 1.164 * (float(y[row, column]) - 16)
        blue, red = (float(plane[row // 2, column // 2]) - 128 for plane in (u, v))
        rgb = (luma + 1.596 * red, luma - 0.392 * blue - 0.813 * red, luma + 2.017 * blue)
        colours.append(tuple(round(value) for value in rgb))
    return colours


def bars_of(grab: Grab) -> list[tuple[int, ...]]:
    """Return the colours of the bars after the copy that capture makes."""
    picture = grab.decode()
    assert picture.color_range is ColorRange.LIMITED
    assert picture.color_matrix is ColorMatrix.BT601
    y = np.zeros((picture.height, picture.width), np.uint8)
    u, v = (np.zeros((picture.height // 2, picture.width // 2), np.uint8) for _ in "uv")
    copy_picture(picture, y, u, v)
    return bar_colours(y, u, v)


def test_the_list_names_cameras_formats_and_problems() -> None:
    first, second = list_cameras()
    assert first.problem is None
    assert first.driver == "vivid"
    assert {"YUYV", "NV12", "YU12"} <= {mode.fourcc for mode in first.modes}
    sizes = {(mode.width, mode.height) for mode in first.modes if mode.fourcc == "NV12"}
    assert (1280, 720) in sizes
    assert all(mode.rates for mode in first.modes if mode.name)
    # its larger sizes are slower than 15 frames a second
    choice = choose(first.modes, Wish())
    assert choice is not None
    assert (choice.mode.fourcc, choice.mode.width, choice.mode.height) == ("NV12", 640, 480)
    assert choice.fps == 25
    assert second.problem is None


@pytest.mark.parametrize(("name", "fourcc"), [("yuyv", "YUYV"), ("nv12", "NV12"), ("i420", "YU12")])
@pytest.mark.parametrize("device", ["/dev/video0", "/dev/video1"])  # the second is multi-planar
def test_pictures_have_geometry_and_colours(device: str, name: str, fourcc: str) -> None:
    source = source_for(device, pixel_format=name, width=640, height=360)
    try:
        info = source.open()
        assert f"{fourcc} 640x360" in info.description
        assert (info.width, info.height, info.capture_clock) == (640, 360, "device")
        grabs = [next_frame(source) for _ in range(3)]
        colours = bars_of(grabs[-1])
    finally:
        source.close()
    numbers = [grab.number for grab in grabs]
    assert numbers == sorted(set(numbers))
    age_s = (time.monotonic_ns() - grabs[-1].monotonic_ns) / 1e9
    assert 0 < age_s < 5
    assert abs(time.time_ns() - grabs[-1].unix_ns) / 1e9 < 5
    for colour, bar in zip(colours, BARS, strict=True):
        assert colour == pytest.approx([191 * part for part in bar], abs=6)


@pytest.mark.parametrize("fps", [10.0, 25.0])
def test_rate_is_negotiated(camera: str, fps: float) -> None:
    source = source_for(camera, pixel_format="nv12", width=320, height=180, fps=fps)
    info = source.open()
    try:
        assert info.fps == pytest.approx(fps, rel=0.01)
        grabs = [next_frame(source) for _ in range(8)]
    finally:
        source.close()
    # per frame of the driver, so that frames skipped on a slow machine do not count
    intervals = [
        (b.monotonic_ns - a.monotonic_ns) / (b.number - a.number) / 1e9 for a, b in pairwise(grabs)
    ]
    assert statistics.median(intervals) == pytest.approx(1 / fps, rel=0.2)


def test_nearest_size_is_taken(camera: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tridetr.capture")
    with opened(source_for(camera, width=650, height=370)):
        pass
    assert "asked for any format 650x370" in caplog.text
    assert "640x360" in caplog.text


def test_after_a_pause_the_frame_is_fresh(camera: str) -> None:
    with opened(source_for(camera, pixel_format="nv12", width=320, height=180, fps=25)) as source:
        first = next_frame(source)
        pause_s = 2.0  # far longer than the driver's buffers last
        time.sleep(pause_s)
        second = next_frame(source)
        age_s = (time.monotonic_ns() - second.monotonic_ns) / 1e9
        assert age_s < pause_s / 2
        assert (second.monotonic_ns - first.monotonic_ns) / 1e9 > pause_s / 2


def test_unplugged_camera_is_lost_and_comes_back(camera: str) -> None:
    source = source_for(camera, pixel_format="yuyv", width=320, height=180)
    source.open()
    before = next_frame(source)  # forgotten here, it must not keep the device file open
    unplug = threading.Timer(0.3, (DRIVER / "unbind").write_text, ("vivid.0",))
    unplug.start()
    started = time.monotonic()
    try:
        with pytest.raises(SourceLostError, match="gone"):  # noqa: PT012
            while source.next(60.0):
                pass
        assert time.monotonic() - started < 15  # noticed, not timed out
        source.close()
        unplug.join()  # the device file goes last
        with pytest.raises(SourceError, match="does not exist"):
            source.open()
    finally:
        unplug.join()
        (DRIVER / "bind").write_text("vivid.0")
    with opened(source):
        assert next_frame(source).number > before.number


def test_busy_camera_names_its_user(camera: str) -> None:
    ready, release = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        try:
            source = source_for(camera, width=320, height=180)
            source.open()
            os.write(ready[1], b"1")
            os.read(release[0], 1)
        finally:
            os._exit(0)
    try:
        assert os.read(ready[0], 1)
        with pytest.raises(SourceError, match=rf"in use .*pid {child} \("):
            source_for(camera).open()
    finally:
        os.write(release[1], b"1")
        os.waitpid(child, 0)


def test_closed_source_lets_others_in_even_while_a_picture_is_held(camera: str) -> None:
    first = source_for(camera, pixel_format="nv12", width=320, height=180)
    first.open()
    picture = next_frame(first).decode()
    first.close()
    with opened(source_for(camera, pixel_format="yuyv", width=640, height=360)) as second:
        assert next_frame(second).decode().width == 640
    assert picture.planes[0].mean() > 0  # still readable


def test_missing_device_names_those_that_exist(camera: str) -> None:
    with pytest.raises(SourceError, match=rf"(?s)video77 does not exist.*{camera} vivid"):
        source_for("/dev/video77").open()


def test_denied_device_names_group_and_remedy(camera: str) -> None:
    Path(camera).chmod(0o660)
    os.chown(camera, 0, 44)
    os.seteuid(65534)
    try:
        with pytest.raises(SourceError, match=r"mode 0660, group video\) as nobody") as caught:
            source_for(camera).open()
        listed = str(list_cameras()[0].problem)
    finally:
        os.seteuid(0)
    assert listed == str(caught.value)
    in_container = Path("/.dockerenv").exists()  # of the host, whose files are seen here
    assert ("--group-add 44" if in_container else "usermod -aG video nobody") in listed


def test_unsupported_format_lists_the_offer(camera: str) -> None:
    with pytest.raises(SourceError, match=r"(?s)does not offer mjpeg\..*NV12 \(nv12\).*1280x720"):
        source_for(camera, pixel_format="mjpeg").open()


def test_other_files_are_refused() -> None:
    with pytest.raises(SourceError, match="not a video device"):
        source_for("/dev/null").open()
