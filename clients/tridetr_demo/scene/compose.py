"""Draw whole scenes with their true boxes, for training and evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tridetr_demo.scene.backdrop import Background
from tridetr_demo.scene.hall import draw_hall
from tridetr_demo.scene.sprites import blit_rgba, cast_shadow
from tridetr_demo.scene.staging import Placed, stage_actors
from tridetr_demo.scene.street import draw_street

MIN_VISIBLE = 0.3


def _paint(canvas: NDArray[np.uint8], placed: list[Placed]) -> NDArray[np.int16]:
    """Draw everything back to front; return the item (index + 1) that each pixel shows, 0 for the background."""
    owner = np.zeros(canvas.shape[:2], np.int16)
    for index, item in enumerate(placed):
        cast_shadow(canvas, item.left + item.rgba.shape[1] / 2, item.foot - 1, item.rgba.shape[1])
        covered = blit_rgba(canvas, item.rgba, item.left, item.top)
        if covered is not None:
            rows, columns, hides = covered
            owner[rows, columns][hides] = index + 1
    return owner


def draw_scene(
    rng: np.random.Generator,
    size_wh: tuple[int, int] = (640, 360),
    background: Background | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
    """Draw one scene.

    Args:
        rng: Random generator; the same state gives the same scene.
        size_wh: Width and height in pixels.
        background: Background of that size; None draws a new one.

    Returns:
        The picture uint8 [H, W, 3]; the visible extent of each object, float32 [N, 4] xyxy in pixels; and
        the COCO-91 class ids, int64 [N].
    """
    if background is None:
        background = draw_street(rng, size_wh) if rng.random() < 0.55 else draw_hall(rng, size_wh)
    placed = stage_actors(rng, background)
    while True:
        canvas = background.rgb.copy()
        owner = _paint(canvas, placed)
        boxes: list[list[int]] = []
        hidden: set[int] = set()
        for index, item in enumerate(placed):
            if item.class_id == 0:
                continue
            mask = owner == index + 1
            full = int((item.rgba[..., 3] >= 128).sum())
            if mask.sum() < MIN_VISIBLE * full:
                hidden.add(index)
                continue
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        if not hidden:  # nothing without a label may be partly visible
            break
        placed = [item for index, item in enumerate(placed) if index not in hidden]
    classes = np.array([item.class_id for item in placed if item.class_id], np.int64)
    return _camera(rng, canvas), np.array(boxes, np.float32).reshape(-1, 4), classes


def _camera(rng: np.random.Generator, canvas: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Add the effects of a camera: slight blur, exposure, white balance and noise."""
    if rng.random() < 0.3:
        blurred = Image.fromarray(canvas).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
        canvas = np.asarray(blurred)
    gain = rng.uniform(0.7, 1.2) * rng.uniform(0.94, 1.06, 3)
    table = np.clip(np.arange(256)[:, None] * gain + rng.uniform(-10, 10), 0, 255)
    toned = np.stack([table[:, c].astype(np.int16)[canvas[..., c]] for c in range(3)], axis=-1)
    grain = rng.standard_normal(canvas.shape[:2], np.float32) * rng.uniform(0.5, 6.0)
    noisy: NDArray[np.uint8] = np.clip(toned + grain.astype(np.int16)[..., None], 0, 255).astype(
        np.uint8
    )
    return noisy
