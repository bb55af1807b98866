"""The engine with fixed shapes, run on the CPU provider: results, sizes, batches, memory, errors."""

from __future__ import annotations

import itertools
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
from tridetr.triton.engine.gpu_memory import MIB, GpuMemory
from tridetr.triton.engine.session import Engine
from tridetr.triton.engine.split import split
from tridetr.triton.engine.static import StaticEngine
from tridetr.triton.engine.static_sessions import Network, Pixels, Sessions, Size

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
def test_a_batch_gives_the_same_results_as_single_frames(
    engine: StaticEngine, plain: Engine, count: int
) -> None:
    """Also with frames of several sizes, and with more frames than the largest batch."""
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


def test_sizes_are_prepared_in_the_background_and_the_oldest_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(static, "MOST_SIZES", 2)
    engine = StaticEngine(MODEL, CHOICE, sizes=[(360, 320)])
    assert engine.sizes == [(360, 320)]  # configured: prepared before the first frame
    for width in (64, 128):
        array = picture(1, width, 48)
        engine.run(frames_of([array]))  # without delay, in the session for any size
        wait_for(lambda: (72, width) in engine.sizes, slack(20), "the size")
    assert engine.sizes == [(72, 64), (72, 128)]
    engine.run(frames_of([picture(1, 64, 48)]))
    assert engine.sizes == [(72, 128), (72, 64)]
    engine.close()


def test_the_weights_are_loaded_once_for_all_batch_sizes(engine: StaticEngine) -> None:
    """Changing the weights in memory changes the results of every batch size."""
    arrays = [picture(seed, 320, 240) for seed in range(4)]
    counts = (1, 2, 4)
    before = {count: engine.run(frames_of(arrays[:count]))[0] for count in counts}
    shared = engine._sessions._weights._values
    embeddings = next(value for name, value in shared.items() if "position_embeddings" in name)
    kept = embeddings.numpy().copy()
    embeddings.update_inplace(np.zeros_like(kept))
    try:
        for count in counts:
            (_, scores, _) = engine.run(frames_of(arrays[:count]))[0]
            assert not np.allclose(scores, before[count][1], atol=1e-4)
    finally:
        embeddings.update_inplace(kept)
    assert len(shared) > 60


def played_memory(each_mib: int) -> GpuMemory:
    """Return GPU memory of which every session uses the same amount."""
    free = itertools.count(1000 * MIB, -each_mib * MIB)
    return GpuMemory(lambda: next(free), share=0.5)


def test_the_memory_of_each_session_is_measured_and_logged() -> None:
    said: list[str] = []
    memory = played_memory(5)
    engine = StaticEngine(
        MODEL, CHOICE, sizes=[(360, 320)], most=2, memory=memory, note=said.append
    )
    sessions = {"weights", "batch 1", "batch 2", "any size", "320x240"}
    assert memory.taken == dict.fromkeys(sessions, 5 * MIB)
    assert (memory.limit, memory.left) == (500 * MIB, 475 * MIB)
    assert "batch 2 5 MiB" in str(memory)
    assert said == ["frames of 320x240: 5 MiB of GPU memory"]
    engine.close()


def test_the_oldest_size_is_closed_if_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures for other reasons close no session."""
    said: list[str] = []
    memory = played_memory(5)
    engine = StaticEngine(
        MODEL, CHOICE, sizes=[(360, 320), (72, 64)], memory=memory, warn=said.append
    )
    pixels = engine._sessions.pixels

    def only_two(size: Size | None) -> Pixels:
        if size == (6, 2):
            raise RuntimeError("no such operator")
        if len(engine.sizes) == 2:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 8294400")
        return pixels(size)

    monkeypatch.setattr(engine._sessions, "pixels", only_two)
    engine._make((72, 128))
    assert engine.sizes == [(72, 64), (72, 128)]
    assert set(memory.taken) == {"weights", "batch 1", "any size", "64x48", "128x48"}
    engine._make((6, 2))
    assert engine.sizes == [(72, 64), (72, 128)]
    assert said == ["frames of 2x4 run with dynamic shapes, more slowly: no such operator"]
    engine.close()


def test_a_batch_size_without_enough_memory_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its frames take several runs. Without memory for a single frame, loading the engine fails."""
    network = Sessions.network

    def up_to(most: int) -> None:
        def limited(self: Sessions, batch: int, *, graph: bool) -> Network:
            if batch > most:
                raise RuntimeError("Available memory of 1 is smaller than requested bytes of 2")
            return network(self, batch, graph=graph)

        monkeypatch.setattr(Sessions, "network", limited)

    said: list[str] = []
    up_to(2)
    engine = StaticEngine(MODEL, CHOICE, most=8, warn=said.append)
    assert engine.batches == (1, 2)
    assert len(engine.run(frames_of([picture(seed, 64, 48) for seed in range(5)]))) == 5
    assert "at most 2 frames are batched, not 4" in said[0]
    assert "Remedy: if memory is short, free GPU memory" in said[0]
    engine.close()
    up_to(0)
    with pytest.raises(ModelError, match=r"does not run on CPUExecutionProvider: Available memory"):
        StaticEngine(MODEL, CHOICE)


def test_a_network_that_cannot_be_captured_runs_without_graphs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Sessions.network

    def refused(self: Sessions, batch: int, *, graph: bool) -> Network:
        if graph:
            raise RuntimeError("all compute graph nodes have not been partitioned")
        return network(self, batch, graph=graph)

    monkeypatch.setattr(Sessions, "network", refused)
    said: list[str] = []
    engine = StaticEngine(MODEL, CHOICE, warn=said.append)
    engine.graphs = True  # as if the provider were CUDA
    engine._network(1)
    assert not engine.graphs
    assert said == [
        "the network runs without CUDA graphs, more slowly: all compute graph nodes have not been partitioned"
    ]
    engine.close()


def test_only_what_is_needed_is_prepared() -> None:
    engine = StaticEngine(MODEL, CHOICE, most=3)
    assert engine.batches == (1, 2, 4)
    assert not engine.graphs  # never on a CPU
    engine.close()


def test_invalid_frames_are_refused(engine: StaticEngine) -> None:
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
