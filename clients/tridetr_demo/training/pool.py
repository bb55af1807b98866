"""Draw training pictures ahead in worker processes, converted as for the model."""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.pool import AsyncResult

import numpy as np
from numpy.typing import NDArray

from tridetr_demo.scene.camera import SyntheticCamera
from tridetr_demo.scene.compose import MIN_VISIBLE, draw_scene
from tridetr_demo.scene.hall import draw_hall
from tridetr_demo.scene.i420 import model_view, rgb_to_i420
from tridetr_demo.scene.staging import CLASS_NAMES
from tridetr_demo.scene.street import draw_street

CLASS_IDS: tuple[int, ...] = tuple(CLASS_NAMES)
SIZES: tuple[tuple[int, int], ...] = (
    (640, 360), (640, 360), (640, 480), (640, 480), (480, 360), (960, 540), (1280, 720))  # fmt: skip
FILM_SIZES: tuple[tuple[int, int], ...] = ((640, 360), (640, 360), (640, 360), (1280, 720))
FIRST_FILM_SEED = 100_000
SCENES_PER_BACKGROUND = 6
CHUNK_SCENES = 60
KEPT_CHUNKS = 50  # that batches are sampled from
CHUNKS_AHEAD = 2  # that are being drawn


@dataclass(frozen=True)
class Scenes:
    """A chunk of drawn scenes.

    Attributes:
        pixels: uint8 [N, R, R, 3], resized to the model's square.
        boxes: One float32 [n, 4] per scene, normalised cxcywh.
        labels: One int64 [n] per scene, index into CLASS_IDS.
    """

    pixels: NDArray[np.uint8]
    boxes: list[NDArray[np.float32]]
    labels: list[NDArray[np.int64]]


def draw_scenes(seed: int, index: int, count: int, resolution: int) -> Scenes:
    """Draw `count` scenes; the same seed and index give the same ones.

    A quarter are frames of the synthetic camera's films (with seeds that cameras do not use), the others are staged at
    random.
    """
    rng = np.random.default_rng([seed, index])
    pixels = np.empty((count, resolution, resolution, 3), np.uint8)
    boxes: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = []
    pictures = itertools.chain(_staged(rng, count - count // 4), _filmed(rng, count // 4))
    for number, (frame, xyxy, classes) in enumerate(pictures):
        pixels[number] = model_view(frame, resolution)
        height, width = frame.shape[0] * 2 // 3, frame.shape[1]
        scaled = xyxy / np.array([width, height, width, height], np.float32)
        centre, extent = (scaled[:, :2] + scaled[:, 2:]) / 2, scaled[:, 2:] - scaled[:, :2]
        boxes.append(np.concatenate([centre, extent], axis=1).astype(np.float32))
        labels.append(np.array([CLASS_IDS.index(int(c)) for c in classes], np.int64))
    return Scenes(pixels, boxes, labels)


# Pixels, boxes and class ids or labels of one scene
_Picture = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]


def _staged(rng: np.random.Generator, count: int) -> Iterator[_Picture]:
    """Yield random scenes: I420 frame, boxes xyxy in pixels, class ids."""
    for number in range(count):
        if number % SCENES_PER_BACKGROUND == 0:
            size_wh = SIZES[rng.integers(len(SIZES))]
            background = (
                draw_street(rng, size_wh) if rng.random() < 0.55 else draw_hall(rng, size_wh)
            )
        rgb, xyxy, classes = draw_scene(rng, size_wh, background)
        yield rgb_to_i420(rgb), xyxy, classes


def _filmed(rng: np.random.Generator, count: int) -> Iterator[_Picture]:
    """Yield frames of one synthetic camera at random times, few of them empty."""
    width, height = FILM_SIZES[rng.integers(len(FILM_SIZES))]
    scene = "street" if rng.random() < 0.5 else "hall"
    camera = SyntheticCamera(
        width, height, seed=int(rng.integers(FIRST_FILM_SEED, 1 << 31)), scene=scene
    )
    while count > 0:
        time_s = float(rng.uniform(0, camera.timetable.period_s))
        truth = camera.truth(time_s)
        unclear = any(box.visible < MIN_VISIBLE for box in truth)
        if unclear or (not truth and rng.random() < 0.85):
            continue
        frame = np.empty((height * 3 // 2, width), np.uint8)
        camera.draw(time_s, frame)
        count -= 1
        xyxy = np.array([box.xyxy for box in truth], np.float32).reshape(-1, 4)
        yield frame, xyxy, np.array([box.class_id for box in truth], np.int64)


class ScenePool:
    """A window over an endless, reproducible sequence of scene chunks that workers draw ahead.

    Args:
        seed: Random seed.
        resolution: Side of the model's square input in pixels.
        first: Index of the first chunk, to resume a run.
    """

    def __init__(self, seed: int, resolution: int, *, first: int) -> None:
        self._seed, self._resolution = seed, resolution
        self._pool = multiprocessing.get_context("spawn").Pool(1)
        self._pending: deque[AsyncResult[Scenes]] = deque()
        self._next = first
        self._kept: deque[Scenes] = deque(maxlen=KEPT_CHUNKS)
        self._order()

    def _order(self) -> None:
        while len(self._pending) < CHUNKS_AHEAD:
            job = (self._seed, self._next, CHUNK_SCENES, self._resolution)
            self._pending.append(self._pool.apply_async(draw_scenes, job))
            self._next += 1

    def advance(self) -> None:
        """Add the next chunk to the window; wait for it if it is not drawn yet."""
        self._kept.append(self._pending.popleft().get())
        self._order()

    def batches(self, rng: np.random.Generator, size: int) -> Iterator[Scenes]:
        """Yield random batches from the window endlessly, with new random augmentations of each picture."""
        while True:
            chosen = [
                (self._kept[int(rng.integers(len(self._kept)))], int(rng.integers(CHUNK_SCENES)))
                for _ in range(size)
            ]
            views = [
                _vary(rng, kept.pixels[i], kept.boxes[i], kept.labels[i]) for kept, i in chosen
            ]
            yield Scenes(
                np.stack([pixels for pixels, _, _ in views]),
                [boxes for _, boxes, _ in views],
                [labels for _, _, labels in views],
            )

    def close(self) -> None:
        self._pool.terminate()
        self._pool.join()


def _vary(
    rng: np.random.Generator,
    pixels: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> _Picture:
    """Crop and mirror at random, and change brightness, contrast and colour with one table per channel."""
    if rng.random() < 0.6:
        pixels, boxes, labels = _cut_out(rng, pixels, boxes, labels)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
        boxes = boxes * np.array([-1, 1, 1, 1], np.float32) + np.array([1, 0, 0, 0], np.float32)
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, (1, 3))
    toned = (np.arange(256)[:, None] - 128) * gain + 128 + rng.uniform(-18, 18)
    table = np.clip(toned, 0, 255).astype(np.uint8)
    channels = [table[:, channel][pixels[..., channel]] for channel in range(3)]
    return np.stack(channels, axis=-1), boxes, labels


def _cut_out(
    rng: np.random.Generator,
    pixels: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> _Picture:
    """Resize a random part to the full size, unless only a sliver of an object, without a label, would remain."""
    for _ in range(4):
        extent = rng.uniform(0.7, 1.0, 2)
        corner = rng.uniform(0.0, 1.0 - extent)
        low = np.clip((boxes[:, :2] - boxes[:, 2:] / 2 - corner) / extent, 0, 1)
        high = np.clip((boxes[:, :2] + boxes[:, 2:] / 2 - corner) / extent, 0, 1)
        left = (high - low).prod(axis=1) * extent.prod() / boxes[:, 2:].prod(axis=1)
        if not ((left > 0) & (left < 0.4)).any():
            kept = left > 0
            cut = np.concatenate([(low + high) / 2, high - low], axis=1)[kept]
            return _zoom(pixels, corner, extent), cut.astype(np.float32), labels[kept]
    return pixels, boxes, labels


def _zoom(
    pixels: NDArray[np.uint8], corner: NDArray[np.float64], extent: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Resize the part at `corner` (x, y) with the given extent, as fractions of the picture, to [R, R, 3]."""
    side = pixels.shape[0]
    wide, high = (
        np.clip(
            (corner[axis] + (np.arange(side) + 0.5) / side * extent[axis]) * side - 0.5, 0, side - 1
        )
        for axis in (0, 1)
    )
    down = (high % 1).astype(np.float32)[:, None, None]
    across = (wide % 1).astype(np.float32)[:, None]
    top, left = high.astype(np.intp), wide.astype(np.intp)
    rows = pixels[top] * (1 - down) + pixels[np.minimum(top + 1, side - 1)] * down
    whole = rows[:, left] * (1 - across) + rows[:, np.minimum(left + 1, side - 1)] * across
    return np.asarray(whole, np.uint8)
