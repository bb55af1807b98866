"""Filter detections by class, score, size and zone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
_TOLERANCE = 1e-9  # of a point on an edge


@dataclass(frozen=True, slots=True)
class AlarmFilter:
    """Selects the detections that alarm.

    Attributes:
        class_ids: class IDs of the model that count.
        min_score: minimum score.
        min_area: minimum area of a box as a fraction of the frame's area.
        zone: polygon in fractions of the frame's width and height, which must contain the foot point (the middle of
            the box's lower edge); empty = the whole frame.
    """

    class_ids: frozenset[int]
    min_score: float = 0.0
    min_area: float = 0.0
    zone: tuple[Point, ...] = ()

    def select(self, detections: NDArray[np.void], width: int, height: int) -> NDArray[np.bool_]:
        """Return a mask of the detections that pass the filter.

        Args:
            detections: structured array [K] with the fields x1, y1, x2, y2 (pixels), score and class_id.
            width: width of the frame in pixels.
            height: height of the frame in pixels.

        Returns:
            Boolean array [K]. Boxes with a NaN never pass.
        """
        wanted = np.isin(detections["class_id"], list(self.class_ids))
        wanted &= detections["score"] >= self.min_score
        if not wanted.any():
            return wanted
        x1, y1, x2, y2 = (detections[name].astype(np.float64) for name in ("x1", "y1", "x2", "y2"))
        area = (x2 - x1) * (y2 - y1)
        wanted &= (area >= self.min_area * width * height) & (x2 >= x1) & (y2 >= y1)
        if self.zone:
            for index in np.flatnonzero(wanted):
                # A box may extend beyond the frame: its foot point is then on the frame's edge.
                across, down = (x1[index] + x2[index]) / 2 / width, y2[index] / height
                foot = (min(max(across, 0.0), 1.0), min(max(down, 0.0), 1.0))
                wanted[index] = contains(self.zone, foot)
        return wanted


def class_ids_of(names: Collection[str], classes: dict[str, int]) -> frozenset[int]:
    """Return the class IDs of those names that the model knows."""
    return frozenset(classes[name] for name in names if name in classes)


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


def _on_segment(a: Point, b: Point, p: Point) -> bool:
    cross = (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])
    if abs(cross) > _TOLERANCE:
        return False
    return (
        min(a[0], b[0]) - _TOLERANCE <= p[0] <= max(a[0], b[0]) + _TOLERANCE
        and min(a[1], b[1]) - _TOLERANCE <= p[1] <= max(a[1], b[1]) + _TOLERANCE
    )
