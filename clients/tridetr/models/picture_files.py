"""Load picture files and convert them to I420 frames, for verify, evaluate and quantize."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tridetr.errors import ModelError
from tridetr.model_card import FrameColor
from tridetr.models.color_matrix import YuvToRgb

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


def find_pictures(folder: Path, limit: int | None = None) -> list[Path]:
    """Return the pictures below ``folder``, sorted by path; with ``limit``, an evenly spread selection.

    Raises:
        ModelError: the folder does not exist, or contains no pictures.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder: expected a folder of pictures")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise ModelError(
            f"there are no pictures ({', '.join(sorted(PICTURE_SUFFIXES))}) below {folder}"
        )
    if limit is not None and limit < len(found):
        found = [found[index * len(found) // limit] for index in range(limit)]
    return found


def load_rgb(path: Path) -> NDArray[np.uint8]:
    """Load a picture as RGB uint8 [H, W, 3]; odd sides are cropped by one pixel, as in capture.

    Raises:
        ModelError: the file cannot be read as a picture.
    """
    try:
        with Image.open(path) as image:
            # Labels refer to the picture after its EXIF rotation.
            rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise ModelError(f"{path} cannot be read as a picture: {error}") from error
    height, width = rgb.shape[0] & ~1, rgb.shape[1] & ~1
    return np.ascontiguousarray(rgb[:height, :width])


def rgb_to_i420(rgb: NDArray[np.uint8], color: FrameColor) -> NDArray[np.uint8]:
    """Convert RGB uint8 [H, W, 3] with even sides to an I420 frame uint8 [3H/2, W].

    Chroma is the mean of 2x2 pixels.

    >>> rgb_to_i420(np.zeros((4, 6, 3), np.uint8), FrameColor.BT601_FULL)[:, 0].tolist()
    [0, 0, 0, 0, 128, 128]
    """
    height, width = rgb.shape[:2]
    conversion = YuvToRgb.of(color)
    inverse = np.linalg.inv(conversion.weight)
    yuv = (rgb.astype(np.float32) / 255.0 - conversion.bias.astype(np.float32)) @ inverse.T.astype(
        np.float32
    )
    chroma = yuv[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean(axis=(1, 3))
    frame = np.empty(height * width * 3 // 2, np.uint8)
    luma_size = height * width
    frame[:luma_size] = _to_bytes(yuv[..., 0]).ravel()
    frame[luma_size:] = _to_bytes(chroma.transpose(2, 0, 1)).ravel()
    return frame.reshape(height * 3 // 2, width)


def _to_bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded
