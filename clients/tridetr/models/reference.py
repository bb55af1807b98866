"""Reference implementation of pre- and post-processing, in numpy float64, to verify fused graphs.

It shares no code with the graph builder: the resize is a matrix product, the colour conversion uses the textbook
constants of the standards, and post-processing follows RF-DETR's own (sigmoid, the best of all (query, class) pairs,
cxcywh to xyxy).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tridetr.i420 import planes

Array = NDArray[np.float64]

# R = Y' + a Cr, G = Y' - b Cb - c Cr, B = Y' + d Cb with Y' in 0..255 and Cb, Cr centred.
_FULL = {
    "bt601": (1.402, 0.344136, 0.714136, 1.772),
    "bt709": (1.5748, 0.187324, 0.468124, 1.8556),
}


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes float64 [N, 4] (xyxy, source pixels), scores [N] (best first), class ids [N]."""

    xyxy: Array
    scores: Array
    class_ids: NDArray[np.int64]


def resize_matrix(size_in: int, size_out: int) -> Array:
    """Return the matrix [size_out, size_in] of a bilinear resize (half-pixel, no antialiasing).

    >>> resize_matrix(4, 2)
    array([[0.5, 0.5, 0. , 0. ],
           [0. , 0. , 0.5, 0.5]])
    """
    matrix = np.zeros((size_out, size_in))
    centers = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    centers = np.clip(centers, 0, size_in - 1)
    low = np.floor(centers).astype(int)
    high = np.minimum(low + 1, size_in - 1)
    share = centers - low
    rows = np.arange(size_out)
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, high), share)
    return matrix


def resize(plane: NDArray[np.number], side: int) -> Array:
    """Resize a plane [H, W] to [side, side], ignoring its aspect ratio."""
    height, width = plane.shape
    resized: Array = (
        resize_matrix(height, side) @ plane.astype(float) @ resize_matrix(width, side).T
    )
    return resized


def preprocess_i420(frame: NDArray[np.uint8], side: int, matrix: str, full_range: bool) -> Array:
    """Return the network's input [3, side, side] for an I420 frame uint8 [3H/2, W]."""
    luma, u, v = planes(frame)
    y, cb, cr = resize(luma, side), resize(u, side) - 128.0, resize(v, side) - 128.0
    if not full_range:
        y = (y - 16.0) * (255.0 / 219.0)
        cb, cr = cb * (255.0 / 224.0), cr * (255.0 / 224.0)
    red, green_b, green_r, blue = _FULL[matrix]
    rgb = np.stack([y + red * cr, y - green_b * cb - green_r * cr, y + blue * cb])
    return _normalise(np.clip(rgb, 0.0, 255.0))


def preprocess_rgb(rgb: NDArray[np.uint8], side: int) -> Array:
    """Return the network's input for a picture uint8 [H, W, 3], as RF-DETR's ``predict()`` does."""
    return _normalise(np.stack([resize(rgb[..., channel], side) for channel in range(3)]))


def _normalise(rgb: Array) -> Array:
    mean = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    normalised: Array = (rgb / 255.0 - mean) / std
    return normalised


def postprocess(
    cxcywh: NDArray[np.floating],
    logits: NDArray[np.floating],
    *,
    resolution_wh: tuple[int, int],
    class_ids: list[int],
    best: int,
) -> Detections:
    """Decode one frame's raw outputs.

    Args:
        cxcywh: boxes [Q, 4] in 0..1.
        logits: class logits [Q, C].
        resolution_wh: the source frame's size.
        class_ids: class id of each logit column; negative = never reported.
        best: maximum number of (query, class) pairs to return.
    """
    scores = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    scores = np.where(np.array(class_ids) < 0, -1.0, scores)
    order = np.argsort(-scores, axis=None, kind="stable")[:best]
    query, column = np.unravel_index(order, scores.shape)
    keep = scores[query, column] >= 0
    query, column = query[keep], column[keep]
    cx, cy, w, h = cxcywh.astype(np.float64)[query].T
    width, height = resolution_wh
    xyxy = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1)
    xyxy = np.clip(xyxy, 0.0, 1.0) * np.array([width, height, width, height])
    return Detections(xyxy, scores[query, column], np.array(class_ids)[column])
