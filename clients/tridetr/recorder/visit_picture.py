"""Select the best frame of a visit, and encode it and its crop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tridetr.controller.payloads import FrameFacts, boxes
from tridetr.gateway.encode import Color, encode
from tridetr.i420 import planes

_QUALITY = 88
_MARGIN = 0.15  # margin on each side of the crop, as a fraction of the box's longer side
_LEAST_CROP = 64  # minimum side of a crop in pixels


@dataclass(frozen=True, slots=True)
class Planes:
    """A copy of a frame's pixels: I420 planes, uint8 [3 * height / 2, width], and their colour space."""

    width: int
    height: int
    planes: NDArray[np.uint8]
    color: Color


@dataclass(frozen=True, slots=True)
class BestFrame:
    """The best frame of a visit so far.

    Attributes:
        value: Score × area (in square pixels) of its best box.
        score: Score of that box.
        pixels: Pixels of the frame.
        facts: Detections and metadata of the frame.
        crop: x, y, width and height of the crop in pixels, all even.
    """

    value: float
    score: float
    pixels: Planes
    facts: FrameFacts
    crop: tuple[int, int, int, int]

    @classmethod
    def of(cls, facts: FrameFacts, pixels: Planes) -> BestFrame:
        """Return a frame as a candidate; it must have at least one box."""
        value, index = value_of(facts)
        box = facts.boxes[index]
        crop = crop_of(box.xyxy, pixels.width, pixels.height)
        return cls(value, box.score, pixels, facts, crop)

    def jpegs(self) -> tuple[bytes, bytes]:
        """Encode the whole frame and the crop around the best box as JPEGs, without drawn boxes."""
        x, y, width, height = self.crop
        cut = Planes(width, height, _cut(self.pixels, x, y, width, height), self.pixels.color)
        whole, crop = (
            encode(picture, picture.color, quality=_QUALITY, small=False).jpeg
            for picture in (self.pixels, cut)
        )
        return whole, crop

    def describe(self) -> dict[str, Any]:
        """Return the boxes and metadata of the frame as a JSON-compatible dictionary."""
        return {
            "unix_ns": self.facts.capture_unix_ns,
            "width": self.pixels.width,
            "height": self.pixels.height,
            "value": self.value,
            "crop": list(self.crop),
            "frame_number": self.facts.number,
            "model": self.facts.model,
            "boxes": boxes(self.facts.boxes),
        }


def value_of(facts: FrameFacts) -> tuple[float, int]:
    """Return the highest score × area of a frame's boxes, and the index of that box."""
    values = [
        box.score * max(0.0, box.xyxy[2] - box.xyxy[0]) * max(0.0, box.xyxy[3] - box.xyxy[1])
        for box in facts.boxes
    ]
    index = max(range(len(values)), key=values.__getitem__)
    return values[index], index


def crop_of(
    box: tuple[float, float, float, float], width: int, height: int
) -> tuple[int, int, int, int]:
    """Return x, y, width and height of the crop around a box: all even, and inside the frame.

    Args:
        box: x1, y1, x2, y2 in pixels.
        width: Width of the frame in pixels.
        height: Height of the frame in pixels.

    Example:
        >>> crop_of((100.0, 50.0, 200.0, 250.0), 640, 480)
        (70, 20, 160, 260)
    """
    x1, y1, x2, y2 = box
    margin = _MARGIN * max(x2 - x1, y2 - y1)
    found = []
    for low, high, limit in ((x1, x2, width), (y1, y2, height)):
        middle, half = (low + high) / 2, max((high - low) / 2 + margin, _LEAST_CROP / 2)
        start = min(max(0, int(middle - half) & ~1), limit - 2)
        end = max(start + 2, min(limit, int(middle + half + 1) & ~1))
        found.append((start, end - start))
    (x, crop_width), (y, crop_height) = found
    return x, y, crop_width, crop_height


def _cut(pixels: Planes, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
    parts = planes(pixels.planes)
    cut = [parts[0][y : y + height, x : x + width]] + [
        part[y // 2 : (y + height) // 2, x // 2 : (x + width) // 2] for part in parts[1:]
    ]
    return np.concatenate([part.reshape(-1) for part in cut]).reshape(height * 3 // 2, width)
