"""The engine with fixed shapes, on the CPU provider by the same code: results, sizes, batches, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.waiting import slack, wait_for
from tridetr.errors import ModelError
from tridetr.paths import model_repository_dir
from tridetr.triton.engine import static
from tridetr.triton.engine.choice import CPU, Choice
from tridetr.triton.engine.dlpack import Frames
from tridetr.triton.engine.session import Engine
from tridetr.triton.engine.split import split
from tridetr.triton.engine.static import StaticEngine

MODEL = model_repository_dir() / "rfdetr_ort" / "1" / "model.onnx"
CHOICE = Choice(CPU, "fp32", "a test")


def picture(seed: int, width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (1, height * 3 // 2, width), np.uint8)


def frames_of(arrays: list[np.ndarray[Any, np.dtype[np.uint8]]]) -> list[Frames]:
    return [Frames(int(array.ctypes.data), array.shape, None) for array in arrays]


@pytest.fixture(scope="module")
def engine() -> Iterator[StaticEngine]:
    made = StaticEngine(MODEL, CHOICE, sizes=[(360, 320)], most=8)
    yield made
    made.close()


@pytest.fixture(scope="module")
def plain() -> Engine:
    return Engine(MODEL, CHOICE)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 9])
def test_a_batch_is_what_each_frame_gives_alone(
    engine: StaticEngine, plain: Engine, count: int
) -> None:
    """Also of several sizes at once, and of more frames than the largest batch."""
    arrays = [picture(seed, *((320, 240), (642, 362))[seed % 2]) for seed in range(count)]
    found = engine.run(frames_of(arrays))
    assert len(found) == count
    for array, (boxes, scores, classes) in zip(arrays, found, strict=True):
        expected = plain.run(array)
        assert [part.shape for part in (boxes, scores, classes)] == [p.shape for p in expected]
        np.testing.assert_allclose(scores, expected[1], atol=1e-5)
        sure = scores > 0.05
        np.testing.assert_allclose(boxes[sure], expected[0][sure], atol=0.05)
        assert np.array_equal(classes[sure], expected[2][sure])


def test_results_do_not_change_with_the_next_run(engine: StaticEngine) -> None:
    first, second = picture(1, 320, 240), picture(2, 320, 240)
    (kept,) = engine.run(frames_of([first]))
    copy = [part.copy() for part in kept]
    engine.run(frames_of([second]))
    assert all(np.array_equal(a, b) for a, b in zip(kept, copy, strict=True))


def test_sizes_are_prepared_in_the_background_and_the_oldest_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(static, "MOST_SIZES", 2)
    engine = StaticEngine(MODEL, CHOICE, sizes=[(360, 320)])
    assert engine.sizes == [(360, 320)]  # announced: there before the first frame
    for width in (64, 128):
        array = picture(1, width, 48)
        engine.run(frames_of([array]))  # at once, by the open session
        wait_for(lambda: (72, width) in engine.sizes, slack(20), "the size")
    assert engine.sizes == [(72, 64), (72, 128)]
    engine.run(frames_of([picture(1, 64, 48)]))
    assert engine.sizes == [(72, 128), (72, 64)]
    engine.close()


def test_only_what_is_needed_is_prepared() -> None:
    engine = StaticEngine(MODEL, CHOICE, most=3)
    assert engine.batches == (1, 2, 4)
    assert not engine.graphs  # on a CPU there are none
    engine.close()


def test_frames_that_are_none_are_refused(engine: StaticEngine) -> None:
    with pytest.raises(ModelError, match="even height and width"):
        engine.run([Frames(0, (1, 361, 320), None)])


def test_the_first_half_has_no_weights() -> None:
    parts = split(MODEL)
    assert len(parts.pixels) < 20_000
    assert len(parts.network) > 10 * len(parts.pixels)


def test_other_models_are_refused(tmp_path: Path) -> None:
    import onnx

    model = onnx.load(MODEL)
    for node in model.graph.node:
        node.name = node.name.replace("tridetr/", "other/")
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="tridetr models fuse"):
        split(tmp_path / "other.onnx")
