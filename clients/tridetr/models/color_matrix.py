"""Conversion of the Y, Cb and Cr samples of an I420 frame to RGB, by matrix (BT.601, BT.709) and range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tridetr.model_card import FrameColor

FloatArray = NDArray[np.float64]

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])
IMAGENET_STD = np.array([0.229, 0.224, 0.225])

# (Kr, Kb) of ITU-R BT.601 and BT.709.
_LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}


@dataclass(frozen=True, slots=True)
class YuvToRgb:
    """``rgb = weight @ yuv + bias`` with yuv as bytes 0..255 and rgb as 0..1 (before clipping).

    Attributes:
        weight: float64 [3, 3], rows R, G, B; columns Y, Cb, Cr.
        bias: float64 [3].
    """

    weight: FloatArray
    bias: FloatArray

    @classmethod
    def of(cls, color: FrameColor) -> YuvToRgb:
        """Return the conversion for a colour matrix and range.

        >>> YuvToRgb.of(FrameColor.BT601_FULL).weight.round(3)[0]
        array([0.004, 0.   , 0.005])
        """
        kr, kb = _LUMA[color.matrix]
        kg = 1.0 - kr - kb
        luma, chroma, black = (255.0, 255.0, 0.0) if color.is_full_range else (219.0, 224.0, 16.0)
        red, blue = 2 * (1 - kr) / chroma, 2 * (1 - kb) / chroma
        weight = np.array(
            [
                [1 / luma, 0.0, red],
                [1 / luma, -blue * kb / kg, -red * kr / kg],
                [1 / luma, blue, 0.0],
            ]
        )
        return cls(weight, -weight @ np.array([black, 128.0, 128.0]))

    def normalised(self) -> YuvToRgb:
        """Return the conversion combined with RF-DETR's ImageNet normalisation."""
        return YuvToRgb(
            self.weight / IMAGENET_STD[:, None], (self.bias - IMAGENET_MEAN) / IMAGENET_STD
        )
