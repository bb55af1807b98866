"""Compute average precision, and precision and recall, at IoU 0.5, in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Curve:
    """Detections of one class over a set of pictures, best first.

    Attributes:
        scores: float32 [N], descending.
        hits: bool [N], whether each found an object that no better detection had found.
        truths: Number of objects.
    """

    scores: NDArray[np.float32]
    hits: NDArray[np.bool_]
    truths: int

    def average_precision(self) -> float:
        """Return the area under the precision envelope (all points)."""
        if self.truths == 0:
            return float("nan")
        found = np.cumsum(self.hits)
        precision = found / np.arange(1, self.hits.size + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        recall = found / self.truths
        return float(np.sum(np.diff(recall, prepend=0.0) * envelope))

    def at(self, threshold: float) -> tuple[float, float]:
        """Return precision and recall of the detections with at least this score."""
        kept = self.hits[self.scores >= threshold]
        precision = float(kept.mean()) if kept.size else 1.0
        return precision, float(kept.sum()) / max(1, self.truths)

    def best_threshold(self) -> float:
        """Return the threshold with the best F1, in steps of 0.01."""
        candidates = np.arange(0.05, 0.95, 0.01)

        def f1(threshold: float) -> float:
            precision, recall = self.at(threshold)
            return 2 * precision * recall / max(1e-9, precision + recall)

        return float(candidates[int(np.argmax([f1(float(c)) for c in candidates]))])


def iou_matrix(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the intersection over union of boxes xyxy [N, 4] and [M, 4], as [N, M]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    return np.asarray(
        shared / np.maximum(areas[0][:, None] + areas[1][None, :] - shared, 1e-9), np.float32
    )


def match(found: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the index of the object that each detection finds (IoU at least 0.5), or -1; each object is found once.

    Args:
        found: Detections xyxy, float32 [N, 4], best first.
        truth: Objects xyxy, float32 [M, 4].
    """
    overlaps = iou_matrix(found, truth)
    taken = np.full(len(found), -1, np.intp)
    free = np.ones(len(truth), np.bool_)
    for row in range(len(found)):
        candidates = np.where(free, overlaps[row], -1.0)
        if candidates.size and candidates.max() >= 0.5:
            taken[row] = candidates.argmax()
            free[taken[row]] = False
    return taken


class Matcher:
    """Collects the detections of one class, picture by picture."""

    def __init__(self) -> None:
        self._scores: list[NDArray[np.float32]] = []
        self._hits: list[NDArray[np.bool_]] = []
        self._truths = 0

    def add(
        self, boxes: NDArray[np.float32], scores: NDArray[np.float32], truth: NDArray[np.float32]
    ) -> None:
        """Match the detections of one picture, best score first; each object is found once.

        Args:
            boxes: Detections xyxy, float32 [N, 4].
            scores: float32 [N].
            truth: Objects xyxy, float32 [M, 4].
        """
        order = np.argsort(-scores, kind="stable")
        self._scores.append(scores[order])
        self._hits.append(match(boxes[order], truth) >= 0)
        self._truths += len(truth)

    def curve(self) -> Curve:
        scores = np.concatenate(self._scores) if self._scores else np.zeros(0, np.float32)
        hits = np.concatenate(self._hits) if self._hits else np.zeros(0, np.bool_)
        order = np.argsort(-scores, kind="stable")
        return Curve(scores[order], hits[order], self._truths)
