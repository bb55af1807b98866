"""Invalid answers of a broken or malicious server raise InferenceFailed and no other exception."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from tridetr.detector.selection import Selection
from tridetr.errors import InferenceFailed
from tridetr.triton.answers import parse_prediction

OUTPUT = st.tuples(
    st.sampled_from(["boxes", "scores", "classes", "other"]),
    st.lists(st.sampled_from([-1, 0, 1, 2, 3, 4, 2**31, 2**62]), max_size=4),
    st.binary(max_size=40),
)


def answer(outputs: list[tuple[str, list[int], bytes]]) -> service_pb2.ModelInferResponse:
    response = service_pb2.ModelInferResponse()
    for name, shape, raw in outputs:
        response.outputs.add(name=name, datatype="FP32", shape=shape)
        response.raw_output_contents.append(raw)
    return response


def floats(*shape: int) -> bytes:
    return bytes(np.zeros(shape, np.float32).tobytes())


def test_a_good_answer_has_boxes_scores_and_classes() -> None:
    got = parse_prediction(
        answer(
            [
                ("boxes", [1, 2, 4], floats(2, 4)),
                ("scores", [1, 2], floats(2)),
                ("classes", [1, 2], floats(2)),
            ]
        )
    )
    assert got.boxes.shape == (2, 4)


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [("boxes", [1, 2, 3], floats(2, 3)), ("scores", [1, 2], floats(2)), ("classes", [1, 2], floats(2))],
        [("boxes", [1, 3, 4], floats(3, 4)), ("scores", [1, 2], floats(2)), ("classes", [1, 2], floats(2))],
        [("boxes", [1, 2, 4], floats(2, 4)), ("scores", [1, 2], floats(2)), ("classes", [1, 1], floats(1))],
        [("boxes", [1, 8], floats(8)), ("scores", [1, 2, 1], floats(2)), ("classes", [1, 2], floats(2))],
        [("boxes", [1, 2, 4], floats(2, 4)), ("scores", [1], floats(1)), ("classes", [1], floats(1))],
        [("boxes", [1, -2, -4], floats(2, 4)), ("scores", [1, 2], floats(2)), ("classes", [1, 2], floats(2))],
        [("boxes", [1, 0, 1 << 62], b""), ("scores", [1, 0], b""), ("classes", [1, 0], b"")],
        [("boxes", [1, 2, 4], floats(2, 4)[:-1]), ("scores", [1, 2], floats(2)), ("classes", [1, 2], floats(2))],
    ],
)  # fmt: skip
def test_contradicting_outputs_are_refused(outputs: list[tuple[str, list[int], bytes]]) -> None:
    """Different numbers of boxes and scores once ended the detector with a traceback."""
    with pytest.raises(InferenceFailed):
        parse_prediction(answer(outputs))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["boxes", "scores"])
def test_nan_and_infinite_answers_are_failures_and_not_an_empty_picture(
    where: str, bad: float
) -> None:
    """A model that overflowed in half precision once looked like an empty picture: the camera stayed in standby."""
    arrays = {
        "boxes": np.full((1, 2, 4), 9, np.float32),
        "scores": np.array([[0.9, 0]], np.float32),
        "classes": np.ones((1, 2), np.int32),
    }

    def parsed() -> None:
        parse_prediction(
            answer([(name, list(value.shape), value.tobytes()) for name, value in arrays.items()])
        )

    arrays["boxes"][0, 1] = bad
    parsed()  # boxes of padding rows are ignored
    arrays[where][0, 0] = bad
    with pytest.raises(InferenceFailed, match="NaN or infinite"):
        parsed()


def scored(
    *rows: tuple[float, tuple[float, float, float, float]],
) -> service_pb2.ModelInferResponse:
    """Return an answer with these scores and boxes."""
    boxes = np.array([[box for _, box in rows]], np.float32)
    scores = np.array([[score for score, _ in rows]], np.float32)
    count = len(rows)
    return answer(
        [
            ("boxes", [1, count, 4], boxes.tobytes()),
            ("scores", [1, count], scores.tobytes()),
            ("classes", [1, count], floats(1, count)),
        ]
    )


GOOD, INVERTED = (300, 200, 340, 290), (320, 245, 40, 90)


def test_boxes_that_are_not_corners_are_a_failure_and_not_an_empty_picture() -> None:
    """A model that returns centre and size looked like an empty picture: the alarm filter drops inverted boxes."""
    parse_prediction(scored((0.9, GOOD), (0, INVERTED)))  # a box of a padding row is ignored
    parse_prediction(scored((0.9, (300, 200, 299.5, 290))))  # rounding
    with pytest.raises(InferenceFailed, match="not x1 y1 x2 y2"):
        parse_prediction(scored((0.9, INVERTED), (0, GOOD)))


@pytest.mark.parametrize("wrong", [INVERTED, (0, 0, np.nan, 9), (0, 0, np.inf, 9)])
def test_a_few_wrong_boxes_do_not_fail_the_answer_but_a_majority_does(
    wrong: tuple[float, float, float, float],
) -> None:
    """One wrong box of any score used to leave the camera without results."""
    assert len(parse_prediction(scored((0.9, GOOD), (0.01, wrong))).scores) == 2
    with pytest.raises(InferenceFailed, match="most boxes"):
        parse_prediction(scored((0.03, wrong), (0.02, GOOD), (0.01, wrong)))


def test_boxes_in_shares_of_the_picture_are_a_failure() -> None:
    """Such a model never alarmed with a zone or `min_area`, and nothing showed it."""
    share = (0.4, 0.3, 0.6, 0.9)
    with pytest.raises(InferenceFailed, match="shares of the picture"):
        parse_prediction(scored((0.9, share), (0.3, (0, 0, 1.02, 1)), (0, GOOD)))
    parse_prediction(scored((0.9, GOOD), (0.9, share)))
    parse_prediction(scored((0.1, share)))  # a padding row with a little noise
    parse_prediction(scored((0.9, (0, 0, 3, 2))))


@given(st.lists(OUTPUT, max_size=5))
def test_random_answers_raise_no_other_exception(
    outputs: list[tuple[str, list[int], bytes]],
) -> None:
    try:
        got = parse_prediction(answer(outputs))
    except InferenceFailed:
        return
    with contextlib.suppress(InferenceFailed):
        Selection(0.5, (), {"person": 1})(got.boxes, got.scores, got.classes)
