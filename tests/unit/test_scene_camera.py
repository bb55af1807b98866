"""The live synthetic camera and its timetable."""

from __future__ import annotations

import numpy as np
import pytest

from tridetr_demo.scene import SyntheticCamera
from tridetr_demo.scene.world import make_timetable


@pytest.fixture(scope="module")
def street() -> SyntheticCamera:
    return SyntheticCamera(320, 180, seed=2, scene="street")


def _frame() -> np.ndarray:
    return np.zeros((270, 320), np.uint8)


@pytest.mark.parametrize("scene", ["street", "hall"])
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_people_cross_with_quiet_gaps_in_between(scene: str, seed: int) -> None:
    table = make_timetable(seed, scene)
    step = 0.1
    there = [
        any(visit.role == "person" for visit, _, _ in table.present(i * step))
        for i in range(int(table.period_s / step))
    ]
    runs: list[tuple[bool, float]] = []
    for here in there:
        if runs and runs[-1][0] == here:
            runs[-1] = (here, runs[-1][1] + step)
        else:
            runs.append((here, step))
    gaps = [length for here, length in runs if not here and length > 1]
    assert len(gaps) >= 6
    assert min(gaps) >= 4.5
    assert sum(there) / len(there) > 0.35


def test_a_person_is_in_view_within_the_first_seconds() -> None:
    for scene in ("street", "hall"):
        camera = SyntheticCamera(320, 180, seed=1, scene=scene)
        assert any(box.class_id == 1 and box.visible > 0.8 for box in camera.truth(4.0))


def test_people_meet_and_other_classes_appear(street: SyntheticCamera) -> None:
    truths = [street.truth(t) for t in np.arange(0, street.timetable.period_s, 0.5)]
    assert max(sum(box.class_id == 1 for box in boxes) for boxes in truths) >= 2
    assert any(box.class_id == 18 for boxes in truths for box in boxes)


def test_the_same_seed_and_time_give_the_same_frame(street: SyntheticCamera) -> None:
    twin = SyntheticCamera(320, 180, seed=2, scene="street")
    one, other = _frame(), _frame()
    assert street.draw(7.3, one) == twin.draw(7.3, other)
    np.testing.assert_array_equal(one, other)
    street.draw(7.34, other)
    assert not np.array_equal(one, other), "two frames are never equal, even if nothing moves"


def test_true_boxes_enclose_the_changed_pixels(street: SyntheticCamera) -> None:
    quiet = min(
        np.arange(0, street.timetable.period_s, 0.25), key=lambda t: len(street.truth(float(t)))
    )
    assert street.truth(float(quiet)) == []
    background, frame = _frame(), _frame()
    street.draw(float(quiet), background)
    for time_s in np.arange(0.5, 60, 1.7):
        boxes = street.draw(float(time_s), frame)
        change = np.abs(frame[:180].astype(int) - background[:180])
        # Noise is at most 3 in each frame; a shadow darkens the ground next to the feet.
        outside = change > 80
        for box in boxes:
            x0, y0, x1, y1 = (int(v) for v in box.xyxy)
            outside[max(0, y0 - 1) : y1 + 8, max(0, x0 - 12) : x1 + 12] = False
            if box.visible > 0.9:
                assert (change[y0:y1, x0:x1] > 12).mean() > 0.1
        assert not outside.any()


def test_a_second_round_equals_the_first(street: SyntheticCamera) -> None:
    period = street.timetable.period_s
    assert street.truth(5.0) == street.truth(5.0 + period)


@pytest.mark.parametrize(("width", "height"), [(321, 180), (320, 181)])
def test_odd_sizes_are_refused(width: int, height: int) -> None:
    with pytest.raises(ValueError, match="even"):
        SyntheticCamera(width, height)


def test_unknown_scenes_and_wrong_frames_are_refused(street: SyntheticCamera) -> None:
    with pytest.raises(ValueError, match="street"):
        SyntheticCamera(320, 180, scene="moon")
    with pytest.raises(ValueError, match="270, 320"):
        street.draw(0.0, np.zeros((180, 320), np.uint8))
