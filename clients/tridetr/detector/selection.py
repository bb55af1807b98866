"""Which of a model's predictions are published: pure, on arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tridetr.errors import ModelError
from tridetr.shm.detections import DETECTION_DTYPE
from tridetr.shm.names import MAX_DETECTIONS


class Selection:
    """Threshold and class filter of one camera; keeps its output array from frame to frame."""

    def __init__(
        self, camera: str, classes: Mapping[str, int], wanted: Sequence[str], min_score: float
    ) -> None:
        """Prepare.

        Args:
            camera: for messages.
            classes: class name to id of the model.
            wanted: names to publish; empty = all.
            min_score: least score to publish.

        Raises:
            ModelError: the model does not know a wanted name.
        """
        unknown = [name for name in wanted if name not in classes]
        if unknown:
            known = ", ".join(sorted(classes)) or "none (its file carries no class names)"
            raise ModelError(
                f"camera {camera}: the model knows no class {', '.join(map(repr, unknown))}; it knows {known}"
            )
        self.names = {number: name for name, number in classes.items()}
        self._min_score = np.float32(max(min_score, 1e-6))  # score 0 is padding, never a detection
        self._ids = np.array([classes[name] for name in wanted], np.int32) if wanted else None
        self._out = np.zeros(MAX_DETECTIONS, DETECTION_DTYPE)

    def apply(
        self, boxes: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.int32]
    ) -> NDArray[np.void]:
        """Return the detections to publish, best first.

        Args:
            boxes: [K, 4] x1 y1 x2 y2 in pixels.
            scores: [K], best first.
            classes: [K] class ids.

        Returns:
            ``DETECTION_DTYPE`` [n]; valid until the next call.
        """
        keep = scores >= self._min_score
        if self._ids is not None:
            keep &= np.isin(classes, self._ids)
        chosen = np.flatnonzero(keep)[:MAX_DETECTIONS]
        out = self._out[: len(chosen)]
        if len(chosen):
            kept = boxes[chosen]
            for column, name in enumerate(("x1", "y1", "x2", "y2")):
                out[name] = kept[:, column]
            out["score"] = scores[chosen]
            out["class_id"] = classes[chosen]
        return out
