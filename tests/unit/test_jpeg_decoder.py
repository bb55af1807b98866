"""Damaged JPEGs are never shown, however many a camera sends; a missing end marker is not damage."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tridetr.capture.sources.base import CorruptFrameError
from tridetr.capture.sources.jpeg_decoder import JpegDecoder

END = b"\xff\xd9"


def make_jpeg() -> bytes:
    blocks = np.random.default_rng(1).integers(0, 255, (30, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(file, "JPEG", quality=80)
    return file.getvalue()


@pytest.mark.parametrize("end", [b"", END])
def test_truncated_pictures_are_refused_however_many_come(end: bytes) -> None:
    jpeg = make_jpeg()
    decoder = JpegDecoder()
    for _ in range(50):
        with pytest.raises(CorruptFrameError, match="damaged JPEG"):
            decoder.decode(jpeg[: len(jpeg) * 2 // 5] + end)
    assert decoder.decode(jpeg).planes[0].shape == (240, 320)


@pytest.mark.parametrize("end", [b"", bytes(64), END + b"junk"])
def test_a_missing_end_marker_or_bytes_after_it_are_no_damage(end: bytes) -> None:
    jpeg = make_jpeg().removesuffix(END) + end
    whole = JpegDecoder().decode(make_jpeg())
    np.testing.assert_array_equal(JpegDecoder().decode(jpeg).planes[0], whole.planes[0])


def test_a_progressive_picture_with_thousands_of_scans_is_refused() -> None:
    """Half a megabyte kept a CPU core busy for 18 s, so capture was killed before its first picture."""
    file = io.BytesIO()
    Image.new("L", (640, 360)).save(file, "JPEG", progressive=True)
    jpeg = file.getvalue()
    assert JpegDecoder().decode(jpeg).planes[0].shape == (360, 640)
    last = jpeg.rindex(b"\xff\xda")
    bomb = jpeg[:last] + jpeg[last:].removesuffix(END) * 1000 + END
    with pytest.raises(CorruptFrameError, match="scans"):
        JpegDecoder().decode(bomb)
