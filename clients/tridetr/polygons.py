"""Polygons in fractions of a frame: alarm zones and privacy masks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

Point = tuple[float, float]
_TOLERANCE = 1e-9  # of a point on an edge
_GRID = 64, 36  # points across and down; people in what is between them are too small for any model


def contains(polygon: Sequence[Point], point: Point) -> bool:
    """Return whether a point is inside a polygon or on its border (even-odd rule).

    The border matters: a person cut off by the lower edge of the frame has their foot point exactly on it.

    Example:
        >>> square = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
        >>> contains(square, (0.5, 1.0)), contains(square, (0.5, 1.1))
        (True, False)
    """
    x, y = point
    inside = False
    for (ax, ay), (bx, by) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        if _on_segment((ax, ay), (bx, by), point):
            return True
        if (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay):
            inside = not inside
    return inside


def is_hidden(zone: Sequence[Point], masks: Sequence[Sequence[Point]]) -> bool:
    """Return whether masks hide a zone, except for strips in which nothing can be recognised.

    A strip from 1/64 of the zone's width and 1/36 of its height on always counts as visible (along its edge: half of
    that); a smaller one counts only if a point of the grid is in it.

    Args:
        zone: Polygon; empty = the whole frame.
        masks: Polygons that are painted grey.

    Example:
        >>> left, right = [(0, 0), (0.5, 0), (0.5, 1), (0, 1)], [(0.5, 0), (1, 0), (1, 1), (0.5, 1)]
        >>> is_hidden((), [left]), is_hidden((), [left, right]), is_hidden(left, [left])
        (False, True, True)
    """
    columns, rows = _GRID
    xs, ys = zip(*(zone or ((0.0, 0.0), (1.0, 1.0))), strict=True)
    left, width, top, height = min(xs), max(xs) - min(xs), min(ys), max(ys) - min(ys)
    grid = (
        (left + (i + 0.5) / columns * width, top + (j + 0.5) / rows * height)
        for i in range(columns)
        for j in range(rows)
    )
    within = [point for point in grid if not zone or contains(zone, point)] or zone
    return all(any(contains(mask, point) for mask in masks) for point in within)


def crosses_itself(polygon: Sequence[Point]) -> bool:
    """Return whether two edges of a polygon cross, because its points are not in order around it.

    Example:
        >>> crosses_itself([(0, 0), (1, 0), (1, 1), (0, 1)]), crosses_itself([(0, 0), (1, 0), (0, 1), (1, 1)])
        (False, True)
    """
    edges = zip(polygon, [*polygon[1:], *polygon[:1]], strict=True)
    return any(_cross(a, b, c, d) for (a, b), (c, d) in combinations(edges, 2))


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Return whether two segments cross within both; touching is not crossing."""
    return (
        _side(a, b, c) * _side(a, b, d) < -_TOLERANCE
        and _side(c, d, a) * _side(c, d, b) < -_TOLERANCE
    )


def _side(a: Point, b: Point, p: Point) -> float:
    """Return on which side of the line from a to b a point is, as the area of their parallelogram."""
    return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])


def _on_segment(a: Point, b: Point, p: Point) -> bool:
    if abs(_side(a, b, p)) > _TOLERANCE:
        return False
    return (
        min(a[0], b[0]) - _TOLERANCE <= p[0] <= max(a[0], b[0]) + _TOLERANCE
        and min(a[1], b[1]) - _TOLERANCE <= p[1] <= max(a[1], b[1]) + _TOLERANCE
    )
