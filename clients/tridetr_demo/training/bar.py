"""Evaluate the quality that the bundled model must reach: `python -m tridetr_demo.training.bar MODEL.onnx`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from tridetr.model_card import ModelCard
from tridetr.models.runtime import open_session
from tridetr_demo.scene import CLASS_NAMES, SyntheticCamera, draw_scene
from tridetr_demo.scene.i420 import rgb_to_i420
from tridetr_demo.scene.staging import PERSON
from tridetr_demo.training.score import Curve, Matcher, match

UNSEEN_SEED = 20_000_003
BARELY_VISIBLE = 0.4  # people of whom less is visible may be found, but need not
SCENE_SIZES = ((1280, 720), (640, 360), (640, 480))


@dataclass(frozen=True)
class StreamScore:
    """Precision and recall for people in a stream, at one threshold."""

    precision: float
    recall: float
    people: int


class Detector:
    """Runs a fused model on the CPU without a server.

    Args:
        model: Fused model, or its file.
        threads: Threads of one inference; 0 for all cores.
    """

    def __init__(self, model: Path | onnx.ModelProto, threads: int = 1) -> None:
        self._session = open_session(model, threads=threads)

    def __call__(
        self, frame: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
        """Return the detections in one I420 frame [3H/2, W]: boxes [K, 4], scores [K], classes [K]."""
        boxes, scores, classes = self._session.run(
            ["boxes", "scores", "classes"], {"frame": frame[None]}
        )
        return boxes[0], scores[0], classes[0]


def scene_curves(detect: Detector, count: int, seed: int = UNSEEN_SEED) -> dict[int, Curve]:
    """Return the detection curve of each class over `count` new scenes of three sizes."""
    rng = np.random.default_rng(seed)
    matchers = {class_id: Matcher() for class_id in CLASS_NAMES}
    for number in range(count):
        rgb, truth, ids = draw_scene(rng, SCENE_SIZES[number % len(SCENE_SIZES)])
        boxes, scores, classes = detect(rgb_to_i420(rgb))
        for class_id, matcher in matchers.items():
            kept = (classes == class_id) & (scores > 0)
            matcher.add(boxes[kept], scores[kept], truth[ids == class_id])
    return {class_id: matcher.curve() for class_id, matcher in matchers.items()}


def stream_score(
    detect: Detector, threshold: float, *, seeds: tuple[int, ...] = (0, 1, 2), step_s: float = 0.7
) -> StreamScore:
    """Return precision and recall for people in the synthetic camera's films, over one whole round of each.

    People of whom less than `BARELY_VISIBLE` is visible count neither as missed nor, if found, as wrong.
    """
    hits = wrong = people = 0
    for scene in ("street", "hall"):
        for seed in seeds:
            camera = SyntheticCamera(1280, 720, seed=seed, scene=scene)
            frame = np.empty((1080, 1280), np.uint8)

            for time_s in np.arange(0.0, camera.timetable.period_s, step_s):
                true_boxes = [
                    box for box in camera.draw(float(time_s), frame) if box.class_id == PERSON
                ]
                boxes, scores, classes = detect(frame)
                found = boxes[(classes == PERSON) & (scores >= threshold)]
                truth = np.array([box.xyxy for box in true_boxes], np.float32).reshape(-1, 4)
                counts = np.array([box.visible >= BARELY_VISIBLE for box in true_boxes], np.bool_)
                taken = match(found, truth)
                hits += int(counts[taken[taken >= 0]].sum())
                wrong += int((taken < 0).sum())
                people += int(counts.sum())
    return StreamScore(hits / max(1, hits + wrong), hits / max(1, people), people)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3, help="number of films of each kind")
    options = parser.parse_args()
    metadata = {entry.key: entry.value for entry in onnx.load(options.model).metadata_props}
    card = ModelCard.from_metadata(metadata)
    threshold = card.default_score
    detect = Detector(options.model)
    curves = scene_curves(detect, options.scenes)
    precision, recall = curves[PERSON].at(threshold)
    report = {
        "scenes": options.scenes,
        "ap50": {
            CLASS_NAMES[i]: round(curve.average_precision(), 4) for i, curve in curves.items()
        },
        "threshold": threshold,
        "person_precision": round(precision, 4),
        "person_recall": round(recall, 4),
        "best_threshold": round(curves[PERSON].best_threshold(), 2),
        "stream": asdict(stream_score(detect, threshold, seeds=tuple(range(options.seeds)))),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
