"""Privacy masks: parts of the picture that are painted grey before anything is published."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tridetr.shm.names import FRAMES, PACKETS, VIEW, RingName

_GREY = 128
_Plane = NDArray[np.uint8]
_Polygon = Sequence[tuple[float, float]]


class Mask:
    """Privacy mask of one camera: polygons that are painted grey."""

    def __init__(self, polygons: Sequence[_Polygon]) -> None:
        """Set the polygons; their points are (x, y) as fractions of the frame size."""
        self._polygons = polygons
        self._shape = (0, 0)
        self._parts: list[tuple[slice, slice, NDArray[np.bool_]]] = []

    def apply(self, y: _Plane, u: _Plane, v: _Plane) -> None:
        """Paint the masked parts of a picture grey, in place.

        Each block of 2x2 pixels that a polygon touches is masked entirely.

        Args:
            y: [H, W] uint8, writable; H and W even.
            u: [H/2, W/2] uint8, writable.
            v: [H/2, W/2] uint8, writable.
        """
        if u.shape != self._shape:
            self._shape = (u.shape[0], u.shape[1])
            self._parts = [self._draw(polygon) for polygon in self._polygons]
        blocks = y.reshape(u.shape[0], 2, u.shape[1], 2)
        for rows, columns, inside in self._parts:
            u[rows, columns][inside] = _GREY
            v[rows, columns][inside] = _GREY
            np.copyto(blocks[rows, :, columns], _GREY, where=inside[:, None, :, None])

    def _draw(self, polygon: _Polygon) -> tuple[slice, slice, NDArray[np.bool_]]:
        """Return the rows, columns and blocks of 2x2 pixels that a polygon touches."""
        height, width = self._shape
        points = [(x * width, y * height) for x, y in polygon]
        left, top = (max(0, math.floor(min(axis)) - 1) for axis in zip(*points, strict=True))
        right, bottom = (
            min(limit, math.ceil(max(axis)) + 1)
            for limit, axis in zip((width, height), zip(*points, strict=True), strict=True)
        )
        left, top = min(left, width - 1), min(top, height - 1)
        scale = 4  # drawn enlarged, so that an edge that only crosses a block still marks it
        size = (right - left) * scale, (bottom - top) * scale
        canvas = Image.new("1", size)
        shifted = [
            (min((x - left) * scale, size[0] - 1), min((y - top) * scale, size[1] - 1))
            for x, y in points
        ]
        draw = ImageDraw.Draw(canvas)
        draw.polygon(shifted, fill=1)
        draw.line([*shifted, shifted[0]], fill=1, width=3)  # covers what rounding excluded
        drawn = np.asarray(canvas, bool).reshape(bottom - top, scale, right - left, scale)
        inside: NDArray[np.bool_] = np.asarray(drawn.any(axis=(1, 3)))
        return slice(top, bottom), slice(left, right), inside


def remove_unmasked(instance: str, camera: str) -> None:
    """Delete the frames and packets that an earlier capture process, without this mask, left in shared memory."""
    for kind in (FRAMES, PACKETS, VIEW):
        name = RingName(instance, camera, kind)
        for generation in name.generations():
            name.path(generation).unlink(missing_ok=True)
