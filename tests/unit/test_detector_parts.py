"""The pure parts of the detector: selection of detections, and frame accounting."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from tridetr.detector import server
from tridetr.detector.account import FrameAccount
from tridetr.detector.selection import Selection
from tridetr.errors import ConfigError, InferenceFailed
from tridetr.model_card import ModelInfo

KNOWN = {"person": 1, "bicycle": 2, "car": 3}
BOXES = np.array([[i, i + 1, i + 2, i + 3] for i in range(6)], np.float32)
SCORES = np.array([0.9, 0.8, 0.5, 0.49, 0.1, 0.0], np.float32)
CLASSES = np.array([1, 3, 1, 2, 1, 1], np.int32)


@pytest.mark.parametrize(
    ("min_score", "wanted", "rows"),
    [
        (0.5, (), [0, 1, 2]),  # the minimum score is inclusive
        (0.501, (), [0, 1]),
        (0.0, (), [0, 1, 2, 3, 4]),  # score 0 is padding
        (0.5, ("person",), [0, 2]),
        (0.0, ("car", "bicycle"), [1, 3]),
        (1.0, (), []),
    ],
)
def test_detections_are_selected_by_score_and_class(
    min_score: float, wanted: tuple[str, ...], rows: list[int]
) -> None:
    found = Selection(min_score, wanted, KNOWN)(BOXES, SCORES, CLASSES)
    assert found["x1"].tolist() == [float(row) for row in rows]
    assert found["y2"].tolist() == [float(row + 3) for row in rows]
    assert found["score"].tolist() == SCORES[rows].tolist()
    assert found["class_id"].tolist() == CLASSES[rows].tolist()
    assert found["track_id"].tolist() == [0] * len(rows)


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_rows_with_an_invalid_score_are_dropped(score: float) -> None:
    rows = np.array([[0, 0, 1, 1]], np.float32)
    found = Selection(0.5, (), KNOWN)(rows, np.array([score], np.float32), np.array([1], np.int32))
    assert len(found) == 0


@pytest.mark.parametrize("wanted", [(), ("person",)])
@pytest.mark.parametrize("number", [0, 4, -1, 65_535, 65_536, 70_001, -(2**31)])
def test_a_detection_of_a_class_without_a_name_is_not_dropped_silently(
    number: int, wanted: tuple[str, ...]
) -> None:
    """A model that counts from 0 was taken for COCO's: its persons had no name, and each of them had "left"."""
    rows = np.array([[0, 0, 1, 1], [0, 0, 1, 1]], np.float32)
    classes = np.array([1, number], np.int32)
    select = Selection(0.5, wanted, KNOWN)
    with pytest.raises(InferenceFailed, match=f"class id {number}, which has no name"):
        select(rows, np.array([0.9, 0.8], np.float32), classes)
    assert len(select(rows, np.array([0.9, 0.4], np.float32), classes)) == 1


WRONG = pytest.mark.parametrize("wrong", [[np.nan, 0, 1, 1], [0, 0, np.inf, 1], [9, 0, 1, 1]])


@WRONG
@pytest.mark.parametrize(
    ("scores", "classes"),
    [
        ((0.9, 0.4), (1, 1)),  # below the minimum score
        ((0.9, 0.8), (1, 1)),  # the class is in the frame in any case
        ((0.9, 0.8), (1, 2)),  # not a wanted class
    ],
)
def test_wrong_boxes_are_dropped(
    wrong: list[float], scores: tuple[float, float], classes: tuple[int, int]
) -> None:
    found = Selection(0.5, ("person", "car"), KNOWN)(
        np.array([[0, 0, 1, 1], wrong], np.float32),
        np.array(scores, np.float32),
        np.array(classes, np.int32),
    )
    assert found["x2"].tolist() == [1]


@WRONG
def test_the_only_box_of_a_class_is_not_dropped_silently(wrong: list[float]) -> None:
    """The frame would look as if the class were absent."""
    with pytest.raises(InferenceFailed, match="only box of class 3"):
        Selection(0.5, (), KNOWN)(
            np.array([[0, 0, 1, 1], wrong], np.float32),
            np.array([0.9, 0.6], np.float32),
            np.array([1, 3], np.int32),
        )


def test_the_error_for_unknown_classes_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'persn'.*did you mean person\?.*bicycle, car"):
        Selection(0.5, ("car", "persn"), KNOWN)


@given(
    scores=nps.arrays(np.float32, 8, elements=st.floats(width=32)),
    classes=nps.arrays(np.int32, 8, elements=st.integers(1, 3) | st.integers(-(2**31), 2**31 - 1)),
    boxes=nps.arrays(np.float32, (8, 4), elements=st.floats(width=32)),
    least=st.floats(0, 1),
)
def test_any_answer_gives_finite_rows_in_the_models_order(
    scores: np.ndarray, classes: np.ndarray, boxes: np.ndarray, least: float
) -> None:
    try:
        found = Selection(least, (), KNOWN)(boxes, scores, classes)
    except InferenceFailed:
        is_nameless = not np.isin(classes, list(KNOWN.values())).all()
        assert is_nameless or not np.isfinite(boxes).all() or (boxes[:, :2] > boxes[:, 2:]).any()
        return
    assert np.isfinite(found["score"]).all()
    assert (found["score"] >= least).all()
    assert (found["score"] > 0).all()
    # The model's order: the result is a subsequence of the input.
    rest = iter(zip(scores.tolist(), classes.tolist(), boxes[:, 0].tolist(), strict=True))
    for row in found:
        assert (float(row["score"]), int(row["class_id"]), float(row["x1"])) in rest


@pytest.mark.parametrize(
    ("last", "events", "counted"),
    [
        (0, [("ok", 1), ("ok", 2)], [(0, 0), (0, 0)]),
        (0, [("ok", 5)], [(4, 0)]),  # frames before the first result count, too
        (7, [("ok", 7)], [(0, 0)]),  # a restarted detector repeats the newest frame
        (7, [("ok", 10)], [(2, 0)]),
        (0, [("bad", 1), ("ok", 1)], [(0, 0)]),  # retried with success: no frame is lost
        (0, [("bad", 1), ("bad", 3), ("ok", 5)], [(2, 2)]),
        (0, [("bad", 2), ("bad", 2), ("ok", 3), ("ok", 5)], [(1, 1), (1, 0)]),
        (90, [("ok", 3), ("ok", 5)], [(0, 0), (1, 0)]),  # the ring was recreated
        (0, [("bad", 90), ("bad", 3), ("ok", 5)], [(3, 1)]),
        (90, [("bad", 91), ("bad", 92), ("ok", 3), ("ok", 5)], [(0, 0), (1, 0)]),
    ],
)
def test_frames_between_two_results_are_counted_as_skipped(
    last: int, events: list[tuple[str, int]], counted: list[tuple[int, int]]
) -> None:
    account = FrameAccount(last)
    seen = []
    for what, sequence in events:
        if what == "ok":
            seen.append(account.inferred(sequence))
        else:
            account.failed(sequence)
    assert seen == counted


def test_an_outage_of_days_needs_no_memory() -> None:
    account = FrameAccount(0)
    account.failed(1)
    before = memory_of(account)
    for sequence in range(2, 1000):
        account.failed(sequence)
    assert memory_of(account) - before < 100
    assert account.inferred(1000) == (0, 999)


def memory_of(account: FrameAccount) -> int:
    return sum(map(sys.getsizeof, vars(account).values()))


@pytest.mark.parametrize(
    ("engine", "provider", "at_once"),
    [
        ("onnxruntime", "OpenVINOExecutionProvider", 2),
        ("onnxruntime", "CUDAExecutionProvider", 8),
        ("tensorrt", "unknown", 8),
    ],
)
def test_requests_at_once(engine: str, provider: str, at_once: int) -> None:
    assert server.requests_at_once(ModelInfo("m", "1", engine, provider, "fp32")) == at_once
