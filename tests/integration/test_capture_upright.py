"""Rotated recordings, EXIF orientation, anamorphic pixels: the published picture is upright and undistorted."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from support.capture_rig import Seen, capturing
from support.data import shared
from support.mjpeg_server import MjpegServer

WIDTH, HEIGHT = 160, 96
_LEVELS = (40, 100, 160, 220)  # upper left, upper right, lower left, lower right


def quadrants(width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Four grey quadrants [height, width]."""
    picture = np.empty((height, width), np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = _LEVELS[:2]
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = _LEVELS[2:]
    return picture


def corners(luma: NDArray[np.uint8]) -> list[int]:
    height, width = luma.shape
    places = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return [int(luma[place]) for place in places]


def luma_of(frame: Seen) -> NDArray[np.uint8]:
    return frame.planes[: frame.planes.shape[0] * 2 // 3]


def write_clip(
    path: Path, *, rotation: int = 0, aspect: Fraction | None = None, pix_fmt: str = "yuv420p"
) -> Path:
    rgb = np.repeat(quadrants()[:, :, None], 3, axis=2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        stream.options = {"qp": "10"}
        if rotation:
            stream.set_display_rotation(rotation)
        if aspect is not None:
            stream.sample_aspect_ratio = aspect
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def first_of(tmp_path: Path, source: str | Path, **keys: Any) -> Seen:
    with capturing(tmp_path, source, **keys) as rig:
        return rig.wait_frames(1)[0]


@pytest.mark.parametrize("rotation", [90, 180, -90])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p"])
def test_a_rotated_recording_is_upright(tmp_path: Path, rotation: int, pix_fmt: str) -> None:
    clip = write_clip(tmp_path / "clip.mp4", rotation=rotation, pix_fmt=pix_fmt)
    luma = luma_of(first_of(tmp_path, clip))
    expected = np.rot90(quadrants(), rotation // 90)
    assert luma.shape == expected.shape
    limited = [16 + level * 219 / 255 for level in corners(expected)]
    assert corners(luma) == pytest.approx(limited, abs=4)


@pytest.mark.parametrize(
    ("aspect", "size"),
    [
        (Fraction(2), (2 * WIDTH, HEIGHT)),
        (Fraction(1, 2), (WIDTH, 2 * HEIGHT)),
        (Fraction(12, 11), (174, HEIGHT)),
        (Fraction(1), (WIDTH, HEIGHT)),
    ],
)
def test_non_square_pixels_become_square(
    tmp_path: Path, aspect: Fraction, size: tuple[int, int]
) -> None:
    luma = luma_of(first_of(tmp_path, write_clip(tmp_path / "clip.mp4", aspect=aspect)))
    assert luma.shape[::-1] == size
    limited = [16 + level * 219 / 255 for level in _LEVELS]
    assert corners(luma) == pytest.approx(limited, abs=4)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2"])
def test_exif_orientation_of_a_camera_is_followed(
    tmp_path: Path, orientation: int, subsampling: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image = Image.fromarray(quadrants()).convert("RGB")
    image.save(file, "JPEG", quality=95, exif=exif, subsampling=subsampling)
    server = MjpegServer([file.getvalue()], fps=10)
    server.start()
    try:
        frame = first_of(tmp_path, server.url)
    finally:
        server.stop()
    expected = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("L"))
    assert luma_of(frame).shape == expected.shape
    assert corners(luma_of(frame)) == pytest.approx(corners(expected), abs=4)
    # The camera's own JPEG is passed on only if it shows the same picture
    assert bool(frame.jpeg) == (orientation == 1)


@pytest.mark.parametrize(
    ("name", "size"),
    [("rotated_90.mp4", (240, 320)), ("sar2.mp4", (640, 240)), ("bframes.mkv", (320, 240))],
)
def test_recordings_of_the_cases(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    clip = shared("cases", name)
    assert luma_of(first_of(tmp_path, clip)).shape[::-1] == size


def test_b_frames_arrive_in_display_order(tmp_path: Path) -> None:
    """A bar must move to the right by seven pixels per frame."""
    clip = shared("cases", "bframes.mkv")
    with av.open(str(clip)) as container:
        expected = [f.to_ndarray(format="gray") for f in container.decode(video=0)][:20]
    with capturing(tmp_path, clip, loop=False) as rig:
        frames = rig.wait_frames(12)
    for frame in frames:
        number = frame.stamp.frame_number
        if number < len(expected):
            assert np.abs(luma_of(frame).astype(int) - expected[number]).mean() < 12
            others = [n for n in range(len(expected)) if abs(n - number) == 1]
            own = np.abs(luma_of(frame).astype(int) - expected[number]).mean()
            assert all(
                own <= np.abs(luma_of(frame).astype(int) - expected[n]).mean() for n in others
            )
