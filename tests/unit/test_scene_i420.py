"""I420 conversion, the model's view, and sprites drawn directly into planes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tridetr.i420 import planes
from tridetr_demo.scene.i420 import model_view, rgb_to_i420
from tridetr_demo.scene.sprites import Sprite, blit_rgba


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 60), (10, 120, 240)])
def test_a_plain_colour_survives_the_conversion_to_i420_and_back(
    colour: tuple[int, int, int],
) -> None:
    rgb = np.full((36, 64, 3), colour, np.uint8)
    seen = model_view(rgb_to_i420(rgb), 16)
    assert seen.shape == (16, 16, 3)
    assert np.abs(seen.astype(int) - np.array(colour)).max() <= 2


@pytest.mark.parametrize("size", [(63, 36), (64, 35), (0, 0)])
def test_odd_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="even, positive width and height"):
        rgb_to_i420(np.zeros((size[1], size[0], 3), np.uint8))


def test_a_frame_of_impossible_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="contiguous I420 frame"):
        planes(np.zeros((55, 64), np.uint8))


def test_planes_are_views_of_the_frame() -> None:
    frame = np.zeros((54, 64), np.uint8)
    y, u, v = planes(frame)
    y[:], u[:], v[:] = 1, 2, 3
    assert (frame[:36] == 1).all()
    assert frame.reshape(-1)[36 * 64 :].tolist() == [2] * (18 * 32) + [3] * (18 * 32)


def _picture(rng: np.random.Generator) -> np.ndarray:
    """Return a soft-edged disc of one colour."""
    height, width = int(rng.integers(20, 60)), int(rng.integers(20, 60))
    y, x = np.mgrid[:height, :width]
    distance = np.hypot((y - height / 2) / (height / 2), (x - width / 2) / (width / 2))
    rgba = np.empty((height, width, 4), np.uint8)
    rgba[..., :3] = rng.integers(0, 256, 3)
    rgba[..., 3] = np.clip((1.1 - distance) * 500, 0, 255)
    return rgba


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), left=st.integers(-20, 50), top=st.integers(-20, 30))
def test_drawing_into_planes_equals_drawing_in_rgb_and_converting(
    seed: int, left: int, top: int
) -> None:
    rng = np.random.default_rng(seed)
    rgb = np.empty((60, 100, 3), np.uint8)
    rgb[:] = rng.integers(0, 256, 3)
    frame = rgb_to_i420(rgb)
    rgba = _picture(rng)
    Sprite.from_rgba(rgba).lay(planes(frame), left * 2, top * 2)
    blit_rgba(rgb, rgba, left * 2, top * 2)
    worst = np.abs(frame.astype(int) - rgb_to_i420(rgb).astype(int)).max()
    assert worst <= 4


def test_a_mirrored_sprite_is_the_mirror_image() -> None:
    rgba = _picture(np.random.default_rng(1))
    rgba[:, : rgba.shape[1] // 2, :3] = 0
    plain, turned = np.zeros((90, 80), np.uint8), np.zeros((90, 80), np.uint8)
    sprite = Sprite.from_rgba(rgba, shadow=0.4)
    sprite.lay(planes(plain), 0, 0)
    sprite.mirrored().lay(planes(turned), 0, 0)
    width, height = sprite.size_wh
    np.testing.assert_array_equal(plain[:height, :width], turned[:height, :width][:, ::-1])
    assert sprite.box[0] == width - sprite.mirrored().box[2]
