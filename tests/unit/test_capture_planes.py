"""Plane copies, compared with a reference that copies byte by byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tridetr.capture.planes import copy_picture, even_size
from tridetr.capture.sources.base import Layout, Picture
from tridetr.shm.frames import ColorMatrix, ColorRange

Plane = NDArray[np.uint8]


def padded(rng: np.random.Generator, height: int, width: int, padding: int) -> Plane:
    """A plane as a decoder returns it: a view of wider rows."""
    return rng.integers(0, 256, (height, width + padding), dtype=np.uint8)[:, :width]


def picture(layout: Layout, width: int, height: int, padding: int, seed: int) -> Picture:
    rng = np.random.default_rng(seed)
    half_w, half_h = (width + 1) // 2, (height + 1) // 2
    shapes = {
        Layout.I420: ((height, width), (half_h, half_w), (half_h, half_w)),
        Layout.I422: ((height, width), (height, half_w), (height, half_w)),
        Layout.NV12: ((height, width), (half_h, 2 * half_w)),
        Layout.YUYV: ((height, 4 * half_w),),
    }[layout]
    planes = tuple(padded(rng, *shape, padding) for shape in shapes)
    return Picture(layout, planes, width, height, ColorRange.FULL, ColorMatrix.BT601)


def reference(source: Picture) -> tuple[Plane, Plane, Plane]:
    """Copy a picture one byte at a time."""
    width, height = source.width // 2 * 2, source.height // 2 * 2
    y = np.empty((height, width), np.uint8)
    u = np.empty((height // 2, width // 2), np.uint8)
    v = np.empty_like(u)
    planes = source.planes
    for row in range(height):
        for column in range(width):
            at = 2 * column if source.layout is Layout.YUYV else column
            y[row, column] = planes[0][row, at]
    for row in range(height // 2):
        for column in range(width // 2):
            if source.layout is Layout.I420:
                u[row, column], v[row, column] = planes[1][row, column], planes[2][row, column]
            elif source.layout is Layout.I422:
                u[row, column] = planes[1][2 * row, column]
                v[row, column] = planes[2][2 * row, column]
            elif source.layout is Layout.NV12:
                u[row, column] = planes[1][row, 2 * column]
                v[row, column] = planes[1][row, 2 * column + 1]
            else:
                u[row, column] = planes[0][2 * row, 4 * column + 1]
                v[row, column] = planes[0][2 * row, 4 * column + 3]
    return y, u, v


@given(
    layout=st.sampled_from(list(Layout)),
    width=st.integers(2, 41),
    height=st.integers(2, 23),
    padding=st.integers(0, 9),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_copy_equals_reference(
    layout: Layout, width: int, height: int, padding: int, seed: int
) -> None:
    source = picture(layout, width, height, padding, seed)
    even_w, even_h = even_size(width, height)
    # one block, as in a slot: a write beyond a plane would change the next one or the guard
    block = np.full(even_w * even_h * 3 // 2 + 16, 7, np.uint8)
    luma, chroma = even_w * even_h, even_w * even_h // 4
    y = block[:luma].reshape(even_h, even_w)
    u = block[luma : luma + chroma].reshape(even_h // 2, even_w // 2)
    v = block[luma + chroma : luma + 2 * chroma].reshape(even_h // 2, even_w // 2)
    copy_picture(source, y, u, v)
    for copied, expected in zip((y, u, v), reference(source), strict=True):
        np.testing.assert_array_equal(copied, expected)
    assert (block[-16:] == 7).all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 480), (640, 480)), ((641, 480), (640, 480)), ((641, 479), (640, 478))],
)
def test_odd_sizes_are_rounded_down(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert even_size(*size) == expected


def test_a_wrong_size_is_rejected() -> None:
    source = picture(Layout.I420, 16, 16, 0, 0)
    y, u = np.zeros((16, 18), np.uint8), np.zeros((8, 9), np.uint8)
    with pytest.raises(ValueError, match="16x16 does not fit planes of 18x16"):
        copy_picture(source, y, u, u.copy())
