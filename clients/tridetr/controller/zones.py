"""Filter detections by class, score, size and zone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tridetr.polygons import Point, contains


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
