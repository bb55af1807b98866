"""Filter a model's detections by score and class. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tridetr.errors import ConfigError, InferenceFailed
from tridetr.model_card import MAX_CLASS_ID
from tridetr.shm.detections import DETECTION_DTYPE
from tridetr.triton.answers import are_corners

_IDS = MAX_CLASS_ID + 1


class Selection:
    """Keeps the detections of the wanted classes that reach a minimum score.

    Example:
        >>> select = Selection(0.5, ("person",), {"person": 1, "car": 3})
        >>> boxes = np.float32([[0, 0, 9, 9], [1, 1, 5, 5], [2, 2, 3, 3]])
        >>> rows = select(boxes, np.float32([0.9, 0.8, 0.1]), np.int32([1, 3, 1]))
        >>> [(float(row["x2"]), int(row["class_id"])) for row in rows]
        [(9.0, 1)]
    """

    def __init__(self, min_score: float, wanted: Sequence[str], known: Mapping[str, int]) -> None:
        """Look up the ids of the wanted classes.

        Args:
            min_score: Minimum score, inclusive; rows of score 0 are never kept (they are padding).
            wanted: Names of the classes to keep; empty = all.
            known: Class name -> id of the model.

        Raises:
            ConfigError: The model does not have a wanted class; the message lists the classes that it has.
        """
        self.min_score = min_score
        self._named = np.zeros(_IDS, bool)
        self._named[list(known.values())] = True
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise ConfigError(_unknown(unknown, known))
        self._allowed: NDArray[np.bool_] | None = None
        if wanted:
            self._allowed = np.zeros(_IDS, bool)
            self._allowed[[known[name] for name in wanted]] = True

    def __call__(
        self, boxes: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[Any]
    ) -> NDArray[np.void]:
        """Return the rows to keep, in the model's order.

        Args:
            boxes: float32 [K, 4], x1 y1 x2 y2 in pixels of the frame.
            scores: float32 [K].
            classes: int32 [K], the model's class ids.

        Returns:
            ``DETECTION_DTYPE`` [n], without rows whose box is invalid (see `are_corners`) or whose score is not finite.

        Raises:
            InferenceFailed: a class id has no name, so it may be one of the wanted classes; or a dropped box is the
                only one of its class, so the class would seem to be absent.
        """
        keep = (scores >= self.min_score) & (scores > 0) & np.isfinite(scores)
        self._check_named(classes[keep])
        if self._allowed is not None:
            keep[keep] = self._allowed[classes[keep]]
        sound = are_corners(boxes)
        lost = np.setdiff1d(classes[keep & ~sound], classes[keep & sound])
        if len(lost):
            raise InferenceFailed(
                f"the model's only box of class {lost[0]} is inverted, NaN or infinite, so the content of the picture "
                "is unknown. Remedy if this repeats: set model.precision: fp32, or use another model"
            )
        rows = np.flatnonzero(keep & sound)
        found = np.zeros(len(rows), DETECTION_DTYPE)
        corners = boxes[rows]
        found["x1"], found["y1"], found["x2"], found["y2"] = corners.T
        found["score"] = scores[rows]
        found["class_id"] = classes[rows]
        return found

    def _check_named(self, classes: NDArray[Any]) -> None:
        possible = (classes >= 0) & (classes < _IDS)
        nameless = classes[~possible | ~self._named[np.where(possible, classes, 0)]]
        if len(nameless):
            raise InferenceFailed(
                f"the model's answer contains class id {nameless[0]}, which has no name in the model's file, so the "
                "content of the picture is unknown. Remedy: name all classes in the metadata of the file, with ids "
                f"from 0 to {MAX_CLASS_ID}"
            )


def _unknown(unknown: Sequence[str], known: Mapping[str, int]) -> str:
    near = [match for name in unknown for match in difflib.get_close_matches(name, known, 1)]
    hint = f" (did you mean {', '.join(near)}?)" if near else ""
    return (
        f"detect.classes names {', '.join(map(repr, unknown))}, which the model does not have{hint}; "
        f"its classes: {', '.join(sorted(known)) or 'none'}"
    )
