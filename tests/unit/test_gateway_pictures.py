"""Encoding planes as JPEG: colours, sizes, the camera's own bytes, drawn boxes."""

from __future__ import annotations

import asyncio
import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from support.gateway import FIGURE, GROUND, cameras
from tridetr.gateway.encode import SMALL_WIDTH, Color, encode, small_size
from tridetr.gateway.hub import Hub
from tridetr.gateway.snapshot import draw_boxes, take_snapshot
from tridetr.jpeg import for_browser, read_info

WEIGHTS = {"BT601": (0.299, 0.114), "BT709": (0.2126, 0.0722), "BT2020": (0.2627, 0.0593)}
COLORS = [
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
    (128, 128, 128),
    (200, 150, 120),
]


@dataclass
class Planes:
    planes: NDArray[np.uint8]
    width: int
    height: int


def flat(rgb: tuple[int, int, int], color: Color, width: int = 64, height: int = 48) -> Planes:
    """Return an I420 picture of one colour, by the textbook formula."""
    red, blue = WEIGHTS[color.matrix]
    r, g, b = (value / 255 for value in rgb)
    luma = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - luma) / (2 * (1 - blue)), (r - luma) / (2 * (1 - red))
    if color.full_range:
        yuv = [255 * luma, 128 + 255 * cb, 128 + 255 * cr]
    else:
        yuv = [16 + 219 * luma, 128 + 224 * cb, 128 + 224 * cr]
    planes = np.empty((height * 3 // 2, width), np.uint8)
    chroma = width * height // 4
    planes[:height], rest = min(255, round(yuv[0])), planes[height:].reshape(-1)
    rest[:chroma], rest[chroma:] = min(255, round(yuv[1])), min(255, round(yuv[2]))
    planes.setflags(write=False)  # as in a lease
    return Planes(planes, width, height)


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("full_range", [True, False])
@pytest.mark.parametrize("rgb", COLORS)
def test_colours_are_preserved(rgb: tuple[int, int, int], full_range: bool, matrix: str) -> None:
    color = Color(full_range, matrix)
    for width, small in ((64, False), (1280, True)):
        image = encode(flat(rgb, color, width), color, quality=95, small=small)
        seen = simplejpeg.decode_jpeg(image.jpeg)
        middle = seen[seen.shape[0] // 2, seen.shape[1] // 2].astype(int)
        assert np.abs(middle - rgb).max() <= 5, (middle, width)


@pytest.mark.parametrize("matrix", WEIGHTS)
def test_greys_stay_grey(matrix: str) -> None:
    for level in range(0, 256, 15):
        color = Color(False, matrix)
        image = encode(flat((level,) * 3, color), color, quality=95, small=False)
        middle = simplejpeg.decode_jpeg(image.jpeg)[20, 20].astype(int)
        assert np.ptp(middle) <= 1, middle


@pytest.mark.parametrize("height", [34, 36, 46, 480])
@pytest.mark.parametrize("width", [34, 64, 640, 642])
@pytest.mark.parametrize("color", [Color(True, "BT601"), Color(False, "BT709")])
def test_planes_are_separated_at_any_even_size(width: int, height: int, color: Color) -> None:
    """Heights that are not a multiple of four must not shift the chroma planes."""
    planes = flat((200, 40, 60), color, width, height)
    image = encode(planes, color, quality=95, small=False)
    seen = simplejpeg.decode_jpeg(image.jpeg)
    assert seen.shape == (height, width, 3)
    assert np.abs(seen.astype(int) - (200, 40, 60)).max() <= 12


@given(st.integers(1, 4096).map(lambda n: n * 2), st.integers(1, 4096).map(lambda n: n * 2))
def test_small_pictures_are_even_and_not_wide(width: int, height: int) -> None:
    small = small_size(width, height)
    assert small[0] <= SMALL_WIDTH
    assert small[0] % 2 == small[1] % 2 == 0
    assert min(small) >= 2
    if width <= SMALL_WIDTH:
        assert small == (width, height)


def test_small_encoding_has_the_small_size() -> None:
    color = Color(False, "BT709")
    image = encode(flat((10, 20, 30), color, 1280, 720), color, quality=80, small=True)
    assert Image.open(io.BytesIO(image.jpeg)).size == (image.width, image.height) == (640, 360)


def camera_jpeg(width: int = 64, height: int = 48) -> bytes:
    random = np.random.default_rng(5).integers(0, 255, (height, width, 3), dtype=np.uint8)
    jpeg: bytes = simplejpeg.encode_jpeg(random, colorsubsampling="422")
    return jpeg


def without_tables(data: bytes) -> bytes:
    """Return MJPEG as many cameras send it: without the standard Huffman tables."""
    kept, offset = bytearray(data[:2]), 2
    while data[offset + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, offset + 2)
        if data[offset + 1] != 0xC4:
            kept += data[offset : offset + 2 + length]
        offset += 2 + length
    return bytes(kept + data[offset:])


def test_camera_jpeg_passes_untouched() -> None:
    data = camera_jpeg()
    assert for_browser(data, 64, 48) is data
    assert for_browser(camera_jpeg(65, 49), 64, 48) is not None  # odd sizes are cropped by one


def test_missing_huffman_tables_are_added() -> None:
    whole = camera_jpeg()
    bare = without_tables(whole)
    info = read_info(bare)
    assert info is not None
    assert not info.has_huffman_tables
    mended = for_browser(bare, 64, 48)
    assert mended is not None
    assert np.array_equal(simplejpeg.decode_jpeg(mended), simplejpeg.decode_jpeg(whole))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xd9",
        b"\x89PNG\r\n\x1a\n" + bytes(40),
        camera_jpeg(640, 480),  # not the frame's size
        camera_jpeg()[:100],
        b"\xff\xd8\xff\xc0\x00\x02" + bytes(30),
        b"\xff\xd8\xff\xe0\x00\x01" + bytes(30),
        b"\xff\xd8" + b"\xff" * 500,
    ],
)
def test_other_jpegs_are_encoded_again(data: bytes) -> None:
    assert for_browser(data, 64, 48) is None


@given(st.binary(max_size=300))
def test_noise_never_raises(noise: bytes) -> None:
    read_info(noise)
    read_info(b"\xff\xd8\xff" + noise)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_flipped_byte_never_raises(position: int, value: int) -> None:
    data = bytearray(camera_jpeg())
    data[position] = value
    for_browser(bytes(data), 64, 48)


def test_boxes_are_drawn_at_their_position() -> None:
    data = simplejpeg.encode_jpeg(np.full((360, 640, 3), 40, np.uint8), quality=95)
    found = [
        {"xyxy": [400.0, 200.0, 800.0, 600.0], "score": 0.93, "class": 1, "label": "person"},
        {"xyxy": [-50.0, -50.0, 5000.0, 0.0], "score": 1.0, "class": 65535, "label": "x" * 300},
        {"xyxy": [9.0, 9.0, 1.0, 1.0], "score": 0.5, "class": 0, "label": "upside down"},
    ]
    seen = simplejpeg.decode_jpeg(draw_boxes(data, found, 1280, 95)).astype(int)
    green = (0x5F, 0xE0, 0xB7)
    for x, y in ((200, 200), (400, 200), (300, 300)):  # left, right and lower edge, at half size
        patch = seen[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
        assert np.abs(patch - green).max(axis=1).min() < 60
    assert np.abs(seen[250, 300] - 40).max() < 12  # the inside is unchanged


def test_boxes_are_never_drawn_on_the_jpeg_that_a_camera_sent(tmp_path: Path) -> None:
    """Pillow reads a second size that is hidden in an unknown segment, and allocates memory for it."""
    sent = simplejpeg.encode_jpeg(np.full((480, 640, 3), 250, np.uint8))
    components = b"\1\x22\0\2\x11\1\3\x11\1"
    hidden = b"\xff\xc5" + struct.pack(">HBHHB", 17, 8, 2000, 2000, 3) + components
    scan = sent.index(b"\xff\xda")
    hostile = sent[:scan] + b"\xff\x00" + struct.pack(">H", 2 + len(hidden)) + hidden + sent[scan:]
    with cameras(tmp_path, "hall", jpeg_capacity=100_000) as (config, fakes):

        async def take() -> bytes:
            hub = Hub(config)
            try:
                taken = await take_snapshot(hub, "hall", with_boxes=True, small=False)
            finally:
                await hub.close()
            assert taken is not None
            return taken.jpeg

        sequence = fakes["hall"].frame(jpeg=hostile)
        assert asyncio.run(take()) == hostile  # without boxes, it is passed on to the browser
        assert sequence is not None
        fakes["hall"].result(sequence)
        drawn = simplejpeg.decode_jpeg(asyncio.run(take()), colorspace="GRAY")[:, :, 0].astype(int)
    assert drawn.shape == (480, 640)
    x1, y1, x2, y2 = fakes["hall"].truth(1)
    assert abs(drawn[20, 20] - GROUND[0]) < 12
    assert abs(drawn[(y1 + y2) // 2, (x1 + x2) // 2] - FIGURE[0]) < 12
