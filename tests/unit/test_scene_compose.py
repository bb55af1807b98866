"""Synthetic scenes: true boxes enclose the drawn objects, and the generator is the only source of randomness."""

from __future__ import annotations

import numpy as np
import pytest

from tridetr_demo.scene import CLASS_NAMES, draw_scene
from tridetr_demo.scene.appearance import random_person
from tridetr_demo.scene.backdrop import Background
from tridetr_demo.scene.compose import _paint
from tridetr_demo.scene.people import draw_person
from tridetr_demo.scene.staging import Placed, stage_actors

SIZE = (320, 180)


def test_the_same_generator_state_gives_the_same_scene() -> None:
    first, second = (draw_scene(np.random.default_rng(5), SIZE) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[0], draw_scene(np.random.default_rng(6), SIZE)[0])


@pytest.mark.parametrize("seed", range(12))
def test_boxes_are_within_the_picture_and_have_known_classes(seed: int) -> None:
    rgb, boxes, classes = draw_scene(np.random.default_rng(seed), SIZE)
    assert rgb.shape == (180, 320, 3)
    assert rgb.dtype == np.uint8
    assert boxes.shape == (len(classes), 4)
    assert boxes.dtype == np.float32
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= 320).all()
    assert (boxes[:, [1, 3]] <= 180).all()
    assert set(classes.tolist()) <= set(CLASS_NAMES)


def test_all_classes_and_empty_scenes_occur() -> None:
    rng = np.random.default_rng(3)
    scenes = [draw_scene(rng, SIZE)[2] for _ in range(60)]
    assert set(np.concatenate(scenes).tolist()) == set(CLASS_NAMES)
    assert any(1 not in classes for classes in scenes)


@pytest.mark.parametrize("yaw", [0.0, 1.57, 3.14, -1.57])
def test_a_person_sprite_is_cropped_tight_and_has_about_the_given_height(yaw: float) -> None:
    style = random_person(np.random.default_rng(8))
    sprite = draw_person(style, 200, phase=0.5, yaw=yaw)
    alpha = sprite[..., 3]
    assert 180 <= sprite.shape[0] <= 215
    for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]):
        assert edge.max() >= 64, "a margin was left"


def test_the_owner_map_covers_exactly_the_changed_pixels() -> None:
    grey = np.full((180, 320, 3), 127, np.uint8)
    block = np.full((40, 20, 4), 255, np.uint8)
    block[..., :3] = 10
    placed = [Placed(block, 100, 50, 1, 90.0), Placed(block, 110, 60, 3, 100.0)]
    owner = _paint(grey, placed)
    rows, columns = np.nonzero(owner == 2)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (110, 60, 130, 100)
    # The nearer one hides part of the farther one.
    assert (owner == 1).sum() == 40 * 20 - 10 * 30
    assert (grey[owner > 0] == 10).all()


def test_everything_is_painted_far_to_near() -> None:
    rgb = np.zeros((180, 320, 3), np.uint8)
    place = Background(rgb, floor_y=80, horizon_y=50, road=(130, 180), light=0.0)
    for seed in range(5):
        feet = [item.foot for item in stage_actors(np.random.default_rng(seed), place)]
        assert feet == sorted(feet)
