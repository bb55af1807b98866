from __future__ import annotations

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tridetr.contract import Tensor, check_contract
from tridetr.errors import InferenceFailed, ModelError
from tridetr.model_card import PREFIX, ModelCard, class_table
from tridetr.triton.answers import parse_prediction

FRAME = Tensor("frame", "UINT8", (-1, -1, -1))
BOXES = Tensor("boxes", "FP32", (-1, 300, 4))
SCORES = Tensor("scores", "FP32", (-1, 300))
CLASSES = Tensor("classes", "INT32", (-1, 300))


@pytest.mark.parametrize(
    ("frame", "boxes", "scores", "classes"),
    [
        (FRAME, BOXES, SCORES, CLASSES),
        (Tensor("frame", "UINT8", (1, 1620, 1920)), BOXES, SCORES, CLASSES),
        (
            Tensor("frame", "UINT8", (1, -1, -1)),
            Tensor("boxes", "FP32", (1, -1, -1)),
            Tensor("scores", "FP32", (1, -1)),
            CLASSES,
        ),
    ],
)
def test_models_that_conform_are_accepted(
    frame: Tensor, boxes: Tensor, scores: Tensor, classes: Tensor
) -> None:
    check_contract("m", [frame], [boxes, scores, classes])


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        (
            [Tensor("input", "FP32", (1, 3, 384, 384))],
            [BOXES, SCORES, CLASSES],
            r"frame: expected UINT8 \[B, 3H/2, W\], found nothing",
        ),
        (
            [Tensor("frame", "FP32", (-1, -1, -1))],
            [BOXES, SCORES, CLASSES],
            r"frame: expected UINT8 .* found FP32 \[any, any, any\]",
        ),
        (
            [Tensor("frame", "UINT8", (-1, 1080, 1920))],
            [BOXES, SCORES],
            r"classes: expected INT32 \[B, K\], found nothing",
        ),
        ([Tensor("frame", "UINT8", (1, 1000, 64))], [BOXES, SCORES, CLASSES], "1000"),
        ([FRAME], [Tensor("boxes", "FP32", (-1, 300, 5)), SCORES, CLASSES], r"\[any, 300, 5\]"),
        ([FRAME], [BOXES, Tensor("scores", "FP32", (-1, 100)), CLASSES], "the same K"),
        ([FRAME], [BOXES, SCORES, CLASSES, Tensor("masks", "FP32", (1,))], "masks: not part of"),
        ([FRAME, Tensor("size", "INT64", (2,))], [BOXES, SCORES, CLASSES], "size: not part of"),
    ],
)
def test_other_models_are_refused_with_both_shapes(
    inputs: list[Tensor], outputs: list[Tensor], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        check_contract("m", inputs, outputs)


@pytest.mark.parametrize("text", ['{"person": 1, "human": 1}', '{"person": 1, "person": 2}'])
def test_an_ambiguous_class_table_is_refused(text: str) -> None:
    """A person would raise the alarm of the other class, or of none."""
    with pytest.raises(ModelError, match="twice"):
        class_table(text)


@pytest.mark.parametrize("score", ["nan", "1.0", "-0.1", "inf"])
def test_a_default_score_that_nothing_reaches_is_refused(score: str) -> None:
    """Otherwise everything would look healthy, but nothing would ever raise an alarm."""
    with pytest.raises(ModelError, match="default score"):
        ModelCard.from_metadata({f"{PREFIX}default_score": score})


def test_an_invalid_class_table_is_refused() -> None:
    assert class_table('{"person": 1, "car": 3}') == {"person": 1, "car": 3}
    assert class_table('{"person": 0, "car": 65535}') == {"person": 0, "car": 65535}
    wrong = "", "[1]", '{"person": "x"}', '{"person": null}', '{"person": 1e400}', "[" * 100_000
    unusable = '{"person": -1}', '{"person": 65536}'  # no result can contain these ids
    for text in wrong + unusable:
        with pytest.raises(ModelError, match="class table"):
            class_table(text)


def test_a_class_name_that_is_not_unicode_text_is_refused() -> None:
    """With a lone surrogate in a label, /metrics failed at every scrape."""
    with pytest.raises(ModelError, match=r"name 'chair\\ud800', which is not valid Unicode text"):
        class_table(r'{"person": 1, "chair\ud800": 62}')
    assert class_table(r'{"smile\ud83d\ude00": 1}') == {"smile\N{GRINNING FACE}": 1}


def answer(boxes: bytes, drop: str = "") -> object:
    response = service_pb2.ModelInferResponse()
    contents = {
        "boxes": ("FP32", (1, 2, 4), boxes),
        "scores": ("FP32", (1, 2), np.array([0.9, 0.0], "f4").tobytes()),
        "classes": ("INT32", (1, 2), np.array([1, 0], "i4").tobytes()),
    }
    for name, (datatype, shape, raw) in contents.items():
        if name != drop:
            response.outputs.add(name=name, datatype=datatype, shape=shape)
            response.raw_output_contents.append(raw)
    return response


def test_an_answer_becomes_arrays() -> None:
    boxes = np.arange(8, dtype="f4").reshape(2, 4)
    found = parse_prediction(answer(boxes.tobytes()))
    np.testing.assert_array_equal(found.boxes, boxes)
    np.testing.assert_array_equal(found.scores, np.array([0.9, 0], "f4"))
    np.testing.assert_array_equal(found.classes, [1, 0])


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (answer(b""), "0 bytes"),
        (answer(b"1234"), "4 bytes"),
        (answer(bytes(32), "scores"), "scores missing"),
    ],
)
def test_an_invalid_answer_is_refused(response: object, said: str) -> None:
    """For example, Triton 2.51 sends outputs of 0 bytes if the backend's numpy is too new for it."""
    with pytest.raises(InferenceFailed, match=said):
        parse_prediction(response)
