"""MJPEG frames are completed to JPEGs that every program can show."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tridetr.jpeg import complete_jpeg


def jpeg(*, optimize: bool = False) -> bytes:
    ramp = np.arange(64 * 48, dtype=np.uint32).reshape(48, 64)
    pixels = np.stack([ramp * 7 % 256, ramp // 12 % 256, ramp * 3 % 256], -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90, optimize=optimize)
    return file.getvalue()


def without_tables(data: bytes) -> bytes:
    """Return the JPEG without its Huffman tables, as many USB cameras send it."""
    position, kept = 2, [data[:2]]
    while data[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position + 1] != 0xC4:
            kept.append(data[position:end])
        position = end
    return b"".join([*kept, data[position:]])


def test_complete_frames_are_not_copied() -> None:
    data = np.frombuffer(jpeg(), np.uint8)
    complete = complete_jpeg(data.data)
    assert bytes(complete) == jpeg()
    assert np.shares_memory(np.asarray(complete), data)


def test_missing_tables_are_added() -> None:
    bare = without_tables(jpeg())
    assert b"\xff\xc4" not in bare
    complete = bytes(complete_jpeg(memoryview(bare)))
    assert sorted(complete) == sorted(jpeg())  # only the tables were added
    shown = np.asarray(Image.open(io.BytesIO(complete)))
    np.testing.assert_array_equal(shown, np.asarray(Image.open(io.BytesIO(jpeg()))))


def test_own_tables_are_kept() -> None:
    data = jpeg(optimize=True)
    assert bytes(complete_jpeg(memoryview(data))) == data


@pytest.mark.parametrize("padding", [1, 2, 3000])
def test_padding_is_cut_off(padding: int) -> None:
    assert bytes(complete_jpeg(memoryview(jpeg() + bytes(padding)))) == jpeg()


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xd8", b"no picture at all", jpeg()[:40], b"\xff\xd8" * 100]
)
def test_other_data_is_returned_unchanged(data: bytes) -> None:
    assert bytes(complete_jpeg(memoryview(data))) == data
