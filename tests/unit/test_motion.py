"""Motion detection: small and dark figures are motion, noise and lighting are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tridetr.detector.motion import MotionDetector, PatchGrid

WIDTH, HEIGHT = 640, 360
Film = Callable[[int], NDArray[np.float32]]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(8, 400).map(lambda n: 2 * n),
    st.integers(8, 300).map(lambda n: 2 * n),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_small_object_anywhere_changes_a_patch(
    width: int, height: int, across: float, down: float
) -> None:
    """As wide as a patch and 40 brighter, also at the edges and in the corners."""
    grid = PatchGrid(width, height)
    side = max(8, 2 * round(width / 120))
    before = np.full((height, width), 90, np.uint8)
    after = before.copy()
    x, y = round(across * (width - side)), round(down * max(0, height - side))
    after[y : y + side, x : x + side] += 40
    change = np.abs(grid(after) - grid(before))
    assert change.shape == grid.shape
    assert change.max() >= 40 / 8


def test_patches_are_means() -> None:
    ramp = np.tile(np.linspace(0, 250, 1920), (1080, 1)).astype(np.uint8)
    means = PatchGrid(1920, 1080)(ramp)
    assert means.shape == (34, 60)
    np.testing.assert_allclose(means[0, [0, -1]], [1.6, 247.5], atol=1)
    whole = PatchGrid(322, 182)(np.full((182, 322), 255, np.uint8))
    np.testing.assert_allclose(whole, 255, rtol=1e-6)


def room() -> NDArray[np.float32]:
    """Return a picture with texture, float32 [H, W]."""
    rng = np.random.default_rng(1)
    blocks = rng.uniform(40, 200, (HEIGHT // 20, WIDTH // 20))
    return np.kron(blocks, np.ones((20, 20))).astype(np.float32)


def changes(film: Film, looks: int, sigma: float = 3.0, every: int = 15) -> list[bool]:
    """Return for each frame of a film whether it has changed.

    Changed frames, and every ``every``-th one, count as inferred.
    """
    rng = np.random.default_rng(2)
    grid = PatchGrid(WIDTH, HEIGHT)
    detector = MotionDetector(grid.shape)
    found, since = [], 0
    for number in range(looks):
        noise = rng.standard_normal((HEIGHT, WIDTH), np.float32) * sigma
        picture = np.clip(film(number) + noise + 0.5, 0, 255).astype(np.uint8)
        found.append(detector.changed(grid(picture)))
        since += 1
        if found[-1] or detector.learning or since >= every:
            detector.looked()
            since = 0
    return found


@pytest.mark.parametrize("sigma", [0.0, 1.0, 3.0, 8.0])
def test_sensor_noise_is_learnt(sigma: float) -> None:
    picture = room()
    found = changes(lambda _: picture, 120, sigma)
    assert sum(found[10:]) <= 1


def test_more_noise_at_night_is_learnt_again() -> None:
    day = room()
    night = 16 + day * 0.2
    rng = np.random.default_rng(4)

    def film(number: int) -> NDArray[np.float32]:
        if number < 40:
            return day
        return night + rng.standard_normal(day.shape, np.float32) * 9

    found = changes(film, 160, 2.0)
    assert sum(found[10:40]) <= 1
    assert found[40]
    assert sum(found[100:]) <= 2


def test_changing_light_is_not_motion() -> None:
    picture = room()
    found = changes(lambda n: picture * (1 + 0.15 * np.sin(n / 25)), 200)
    assert sum(found[10:]) <= 4


def test_a_lamp_is_motion_until_it_settles() -> None:
    picture = room()
    found = changes(lambda n: picture if n < 40 else picture * 0.6, 120)
    assert found[40]
    assert sum(found[60:]) <= 1


def with_figure(picture: NDArray[np.float32], left: float, contrast: float) -> NDArray[np.float32]:
    """Return the picture with a figure of 24 x 64 pixels, darker than its background by a number of levels."""
    made: NDArray[np.float32] = picture.copy()
    x = round(left)
    made[200:264, max(0, x) : max(0, x + 24)] -= contrast
    return made


@pytest.mark.parametrize("contrast", [60.0, 12.0])
def test_a_figure_that_walks_in_is_detected_immediately(contrast: float) -> None:
    picture = room()
    found = changes(lambda n: with_figure(picture, (n - 60) * 20.0, contrast), 64)
    assert sum(found[10:59]) <= 1
    assert any(found[60:63])


def test_slow_movement_of_a_dark_figure_accumulates() -> None:
    """One pixel per frame, 6 of 255 darker than its dark background, with noise of 3."""
    dark = 16 + room() * 0.15
    found = changes(lambda n: with_figure(dark, n - 60 - 24, 6.0), 130)
    assert sum(found[10:58]) <= 1
    assert any(found[60:90])  # until it is completely in the picture
    assert sum(found[90:]) >= 2


def test_a_clock_in_the_picture_is_not_motion() -> None:
    """Digits change once per second for two minutes; a figure elsewhere is still detected."""
    picture = room()
    rng = np.random.default_rng(6)
    digits = rng.uniform(0, 255, (200, 2, 2))

    def film(number: int) -> NDArray[np.float32]:
        made: NDArray[np.float32] = picture.copy()
        made[16:40, 560:592] = np.kron(digits[number // 3], np.ones((12, 16)))
        if number >= 360:
            return with_figure(made, 100, 40.0)
        return made

    found = changes(film, 362)
    assert sum(found[10:60]) > 30
    assert sum(found[260:360]) <= 15
    assert any(found[360:])


def test_learnt_noise_never_hides_a_clear_figure() -> None:
    """After a tree has moved for a long time, a person in front of it is still motion."""
    picture = room()
    rng = np.random.default_rng(3)

    def film(number: int) -> NDArray[np.float32]:
        made = picture.copy()
        made[180:300, :200] += np.kron(rng.normal(0, 3.0, (12, 20)), np.ones((10, 10)))
        return with_figure(made, 80, 30.0) if number >= 200 else made

    assert changes(film, 203)[200]
