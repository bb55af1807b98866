"""Training pictures: cut-outs keep boxes on their objects, and chunks are reproducible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tridetr_demo.training.pool import CLASS_IDS, _cut_out, _vary, draw_scenes


def _marked(cx: float, cy: float, w: float, h: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a black picture with one white rectangle, its box and its label."""
    pixels = np.zeros((100, 100, 3), np.uint8)
    x0, y0 = round((cx - w / 2) * 100), round((cy - h / 2) * 100)
    pixels[y0 : y0 + round(h * 100), x0 : x0 + round(w * 100)] = 255
    return pixels, np.array([[cx, cy, w, h]], np.float32), np.array([0], np.int64)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("change", [_cut_out, _vary])
def test_the_box_follows_its_object(seed: int, change: Callable[..., Any]) -> None:
    pixels, boxes, labels = change(np.random.default_rng(seed), *_marked(0.55, 0.4, 0.3, 0.4))
    assert len(boxes) == len(labels) == 1
    cx, cy, w, h = boxes[0] * 100
    luma = pixels.mean(axis=-1)
    rows, columns = np.nonzero(luma > (luma.max() + luma.min()) / 2)
    measured = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(measured, (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), atol=1.5)


@pytest.mark.parametrize("seed", range(12))
def test_a_cut_out_leaves_no_unlabelled_sliver(seed: int) -> None:
    pixels, boxes, _ = _cut_out(np.random.default_rng(seed), *_marked(0.05, 0.5, 0.1, 0.3))
    if len(boxes) == 0:
        assert pixels.max() < 255
    else:
        assert (boxes[:, 2:] > 0.03).all()


def test_chunks_are_reproducible_and_contain_staged_and_filmed_scenes() -> None:
    first, second = (draw_scenes(4, 2, 4, 64) for _ in range(2))
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.pixels.shape == (4, 64, 64, 3)
    for boxes, labels in zip(first.boxes, first.labels, strict=True):
        assert boxes.shape == (len(labels), 4)
        assert ((boxes >= 0) & (boxes <= 1)).all()
        assert set(labels.tolist()) <= set(range(len(CLASS_IDS)))
    assert not np.array_equal(first.pixels, draw_scenes(4, 3, 4, 64).pixels)
