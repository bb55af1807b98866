"""The alarm filter: which detections count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tridetr.controller.zones import AlarmFilter, class_ids_of
from tridetr.polygons import contains
from tridetr.shm.detections import DETECTION_DTYPE

W, H = 100, 200
SQUARE = ((0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8))
LOWER_HALF = ((0.0, 0.5), (1.0, 0.5), (1.0, 1.0), (0.0, 1.0))
CONCAVE = ((0, 0), (1, 0), (1, 1), (0.5, 0.3), (0, 1))


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array([(*row, 0) for row in rows], DETECTION_DTYPE)


@pytest.mark.parametrize(
    ("polygon", "point", "inside"),
    [
        (SQUARE, (0.5, 0.5), True),
        (SQUARE, (0.1, 0.5), False),
        (SQUARE, (0.5, 0.9), False),
        (SQUARE, (0.2, 0.5), True),
        (SQUARE, (0.8, 0.8), True),
        (SQUARE, (0.5, 0.8), True),
        (SQUARE, (0.9, 0.8), False),
        (LOWER_HALF, (0.3, 1.0), True),
        (LOWER_HALF, (1.0, 1.0), True),
        (LOWER_HALF, (0.3, 0.49), False),
        (CONCAVE, (0.5, 0.9), False),
        (CONCAVE, (0.5, 0.2), True),
        (CONCAVE, (0.1, 0.7), True),
    ],
)
def test_point_in_polygon(
    polygon: tuple[tuple[float, float], ...], point: tuple[float, float], inside: bool
) -> None:
    assert contains(polygon, point) is inside
    assert contains(tuple(reversed(polygon)), point) is inside


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999), st.integers(3, 9))
def test_centroid_of_a_convex_polygon_is_inside(x: float, y: float, corners: int) -> None:
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    polygon = tuple((x + 0.1 * np.cos(a), y + 0.1 * np.sin(a)) for a in angles)
    assert contains(polygon, (x, y))
    assert not contains(polygon, (x + 0.2, y))


@pytest.mark.parametrize(
    ("keys", "box", "counts"),
    [
        ({}, (10, 10, 50, 100, 0.9, 1), True),
        ({}, (10, 10, 50, 100, 0.9, 3), False),
        ({"min_score": 0.5}, (10, 10, 50, 100, 0.5, 1), True),
        ({"min_score": 0.5}, (10, 10, 50, 100, 0.49, 1), False),
        ({"min_area": 0.18}, (10, 10, 50, 100, 0.9, 1), True),
        ({"min_area": 0.181}, (10, 10, 50, 100, 0.9, 1), False),
        # Head and body are in the zone but the feet are not: the person stands behind it.
        ({"zone": SQUARE}, (40, 50, 60, 190, 0.9, 1), False),
        ({"zone": SQUARE}, (40, 0, 60, 100, 0.9, 1), True),
        # Cut off by the lower edge of the picture.
        ({"zone": LOWER_HALF}, (40, 50, 60, 200, 0.9, 1), True),
        # A box that extends beyond the picture: the model may guess the position of the feet.
        ({"zone": LOWER_HALF}, (40, 50, 60, 203, 0.9, 1), True),
        ({"zone": LOWER_HALF}, (-30, 50, 20, 203, 0.9, 1), True),
        ({}, (float("nan"), 10, 50, 100, 0.9, 1), False),
        ({"zone": SQUARE}, (40, 0, float("nan"), 100, 0.9, 1), False),
        ({}, (10, 10, 50, 100, float("nan"), 1), False),
        ({}, (50, 10, 10, 100, 0.9, 1), False),
    ],
)
def test_a_detection_counts_by_class_score_area_and_zone(
    keys: dict[str, Any], box: tuple[float, ...], counts: bool
) -> None:
    chosen = AlarmFilter(frozenset({1}), **keys).select(boxes(box), W, H)
    assert chosen.tolist() == [counts]


def test_filter_on_many_and_no_detections() -> None:
    alarm = AlarmFilter(frozenset({1, 18}), 0.5)
    rows = boxes(
        (0, 0, 9, 9, 0.9, 1), (0, 0, 9, 9, 0.9, 2), (0, 0, 9, 9, 0.6, 18), (0, 0, 9, 9, 0.4, 1)
    )
    assert alarm.select(rows, W, H).tolist() == [True, False, True, False]
    assert alarm.select(rows[:0], W, H).tolist() == []
    assert AlarmFilter(frozenset()).select(rows, W, H).tolist() == [False] * 4


def test_unknown_class_names_have_no_id() -> None:
    assert class_ids_of(("person", "dog", "unicorn"), {"person": 1, "dog": 18}) == {1, 18}
