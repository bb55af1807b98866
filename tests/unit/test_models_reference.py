"""The reference implementation, compared with worked examples."""

from __future__ import annotations

import numpy as np
import pytest

from tridetr.model_card import FrameColor
from tridetr.models import reference
from tridetr.models.color_matrix import YuvToRgb
from tridetr.models.picture_files import rgb_to_i420


def test_halving_takes_the_mean_of_two_pixels() -> None:
    np.testing.assert_allclose(reference.resize_matrix(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])


def test_resize_does_not_antialias() -> None:
    """Resizing to a third takes the middle one of three pixels, not their mean."""
    np.testing.assert_allclose(
        reference.resize_matrix(6, 2), [[0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0]]
    )


def test_resize_enlarges_with_clamped_edges() -> None:
    np.testing.assert_allclose(
        reference.resize_matrix(2, 4), np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    )


@pytest.mark.parametrize("color", list(FrameColor))
@pytest.mark.parametrize(
    "rgb", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 140, 200)]
)
def test_colours_survive_the_conversion_to_i420_and_back(
    color: FrameColor, rgb: tuple[int, int, int]
) -> None:
    """The picture converter and the reference share no code; together they must be the identity."""
    picture = np.full((4, 4, 3), rgb, np.uint8)
    frame = rgb_to_i420(picture, color)
    got = reference.preprocess_i420(frame, 2, color.matrix, color.is_full_range)
    np.testing.assert_allclose(got, reference.preprocess_rgb(picture, 2), atol=0.04)


def test_known_bytes_of_red() -> None:
    """ITU-R BT.601, limited range: red is 81, 90, 240."""
    frame = rgb_to_i420(np.full((2, 2, 3), (255, 0, 0), np.uint8), FrameColor.BT601_LIMITED)
    assert frame.reshape(-1).tolist() == [81, 81, 81, 81, 90, 240]


def test_conversion_of_grey_has_no_colour() -> None:
    for color in FrameColor:
        conversion = YuvToRgb.of(color)
        rgb = conversion.weight @ np.array([128.0, 128.0, 128.0]) + conversion.bias
        assert np.ptp(rgb) < 1e-12


def test_postprocess_orders_scales_and_drops() -> None:
    boxes = np.array([[0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]])
    logits = np.array([[0.0, 9.0], [2.0, 9.0]])
    got = reference.postprocess(boxes, logits, resolution_wh=(100, 40), class_ids=[7, -1], best=9)
    assert got.class_ids.tolist() == [7, 7]
    np.testing.assert_allclose(got.scores, [0.880797, 0.5], atol=1e-6)
    np.testing.assert_allclose(got.xyxy, [[0, 0, 25, 10], [25, 10, 75, 30]])
