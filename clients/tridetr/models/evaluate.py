"""Measure the COCO mean average precision of contract models on labelled pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tridetr.contract import COCO_91
from tridetr.errors import ModelError
from tridetr.model_card import FrameColor
from tridetr.models.choices import Engine
from tridetr.models.labelled import LabelledPicture
from tridetr.models.onnx_file import read_card
from tridetr.models.picture_files import load_rgb, rgb_to_i420
from tridetr.models.runtime import open_session, require_contract, run_frame

MIN_SCORE = 0.001


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of a model.

    Attributes:
        model: the model file.
        engine: the engine that ran it.
        ap: mean AP over IoU 0.50 to 0.95 and all classes, 0..1.
        ap50: mean AP at IoU 0.50.
        ap_by_class: class name -> AP, for the classes that occur in the labels.
        median_ms: median time of one inference, in ms.
        pictures: number of pictures.
        curves: class name -> precision at recalls 0, 0.01 .. 1 (IoU 0.50), float64 [101].
    """

    model: Path
    engine: Engine
    ap: float
    ap50: float
    ap_by_class: dict[str, float]
    median_ms: float
    pictures: int
    curves: dict[str, NDArray[np.float64]]


def evaluate(
    model: Path,
    pictures: Sequence[LabelledPicture],
    *,
    engine: Engine = Engine.CPU,
    frame_color: FrameColor | None = None,
    threads: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Run a contract model on labelled pictures and return its scores.

    Args:
        model: the model file.
        pictures: the labelled pictures; labels and model are matched by class *name*.
        engine: the engine that runs the model.
        frame_color: colour matrix and range of the I420 frames that the pictures are converted to; None = as the model
            expects. Another value shows the cost of a mismatch.
        threads: number of threads per inference; 0 = all cores.
        progress: called after each picture.

    Raises:
        ModelError: the file is not a contract model, or has no class in common with the labels.
    """
    card = read_card(model)
    classes = dict(card.classes) or COCO_91
    color = frame_color or card.color
    names = sorted({label.name for picture in pictures for label in picture.labels})
    known = [name for name in names if name in classes]
    if not known:
        raise ModelError(
            f"model and labels have no class name in common: the model has {', '.join(sorted(classes)[:10])} …, "
            f"the labels have {', '.join(names[:10])} …"
        )
    session = open_session(model, engine, threads)
    require_contract(session, str(model))
    category = {classes[name]: index for index, name in enumerate(known, start=1)}
    found: list[dict[str, object]] = []
    times: list[float] = []
    for number, picture in enumerate(pictures, start=1):
        frame = rgb_to_i420(load_rgb(picture.path), color)
        if not times:
            run_frame(session, frame)  # warm-up: the first run of a session allocates and compiles
        started = time.perf_counter()
        boxes, scores, class_ids = run_frame(session, frame)
        times.append(time.perf_counter() - started)
        found.extend(_results(number, boxes, scores, class_ids, category))
        progress()
    truth = _truth(pictures, {name: index for index, name in enumerate(known, start=1)})
    precision = _precision(truth, found)
    by_class = {name: _mean(precision[:, :, index]) for index, name in enumerate(known)}
    curves = {name: precision[0, :, index] for index, name in enumerate(known)}
    return Evaluation(
        model=model,
        engine=engine,
        ap=float(np.nanmean(list(by_class.values()))),
        ap50=float(np.nanmean([_mean(curve) for curve in curves.values()])),
        ap_by_class=by_class,
        median_ms=float(np.median(times)) * 1e3,
        pictures=len(pictures),
        curves=curves,
    )


def _results(
    image: int,
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[np.int32],
    category: dict[int, int],
) -> list[dict[str, object]]:
    return [
        {
            "image_id": image,
            "category_id": category[int(number)],
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": float(score),
        }
        for (x1, y1, x2, y2), score, number in zip(boxes, scores, class_ids, strict=True)
        if score >= MIN_SCORE and int(number) in category
    ]


def _truth(pictures: Sequence[LabelledPicture], category: dict[str, int]) -> dict[str, object]:
    annotations: list[dict[str, object]] = []
    for number, picture in enumerate(pictures, start=1):
        for label in picture.labels:
            if label.name in category:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": category[label.name],
                        "bbox": list(label.xywh),
                        "area": label.xywh[2] * label.xywh[3],
                        "iscrowd": int(label.crowd),
                    }
                )
    return {
        "images": [{"id": number} for number in range(1, len(pictures) + 1)],
        "categories": [{"id": number, "name": name} for name, number in category.items()],
        "annotations": annotations,
    }


def _precision(truth: dict[str, object], found: list[dict[str, object]]) -> NDArray[np.float64]:
    """Return COCO's precision [10 IoUs, 101 recalls, classes]; NaN where a class has no labels."""
    # Imported here, because only this needs the extra `models`.
    from faster_coco_eval import COCO, COCOeval_faster

    annotations = truth["annotations"]
    assert isinstance(annotations, list)
    if not found:
        categories = truth["categories"]
        assert isinstance(categories, list)
        return np.zeros((10, 101, len(categories)))
    wanted = COCO(truth)
    scored = COCOeval_faster(wanted, wanted.loadRes(found), "bbox", print_function=lambda *_: None)
    scored.evaluate()
    scored.accumulate()
    precision = np.asarray(scored.eval["precision"], np.float64)[:, :, :, 0, -1]
    return np.where(precision < 0, np.nan, precision)


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
