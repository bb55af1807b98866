"""Verify a fused model against the numpy reference, on real pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from tridetr.errors import ModelError
from tridetr.models import reference
from tridetr.models.choices import Engine, EnginePrecision
from tridetr.models.half import engine_precision, halve_products
from tridetr.models.onnx_file import card_of, load_model
from tridetr.models.picture_files import load_rgb, rgb_to_i420
from tridetr.models.raw_export import RawExport
from tridetr.models.runtime import open_session
from tridetr.models.unwrap import column_ids, network_of, seam_values, with_outputs


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest differences between a fused model and the reference on one picture.

    Attributes:
        picture: the picture file.
        input: difference of the network's normalised input (pre-processing only).
        box_px: difference of a box coordinate in source pixels, from the same raw outputs (post-processing only).
        score: difference of a score, likewise.
        end_box_px: difference of a box coordinate in source pixels, end to end.
        end_score: difference of a score, end to end.
        i420_score: difference of a confident score between the I420 frame and its RGB picture, in the reference: the
            effect of 8-bit 4:2:0 on any implementation.
        compared: number of detections that were compared end to end.
    """

    picture: Path
    input: float
    box_px: float
    score: float
    end_box_px: float
    end_score: float
    i420_score: float
    compared: int


class Verifier:
    """Compares a fused model with the reference pre- and post-processing around the same network."""

    def __init__(
        self,
        model: Path,
        *,
        engine: Engine = Engine.CPU,
        against: Path | None = None,
        precision: EnginePrecision = EnginePrecision.KEEP,
        least_score: float = 0.1,
        threads: int = 0,
    ) -> None:
        """Open the sessions of the fused model and the reference's network.

        Args:
            model: the fused model.
            engine: the engine of the fused model; the reference's network runs on ONNX Runtime's CPU provider.
            against: the export that was wrapped; None = the network inside ``model``.
            precision: FP16 verifies the graph that `build-engine` passes to TensorRT instead of the file.
            least_score: minimum score of detections to compare end to end (for random scores, the last digit of the
                input decides which queries the network itself selects).
            threads: number of threads per inference; 0 = all cores.

        Raises:
            ModelError: the file is not a fused model, or the export does not match it.
        """
        fused = load_model(model)
        card = card_of(fused)
        if not card.contract:
            raise ModelError(
                f"{model} has no tridetr metadata, so its class ids and colour conversion are unknown: wrap "
                "the export with `tridetr models fuse`"
            )
        network = network_of(fused) if against is None else load_model(against)
        self.card = card
        self._least_score = least_score
        self._export = RawExport.of(network)
        self._class_ids = column_ids(fused, self._export.columns)
        self._network = open_session(network, threads=threads)
        self._inside = seam_values(fused)
        halved = engine_precision(fused, precision) is EnginePrecision.FP16
        served = halve_products(fused) if halved else fused
        self._fused = open_session(with_outputs(served, self._inside), engine, threads)

    def compare(self, picture: Path) -> Difference:
        """Run the fused model and the reference on one picture and return their differences."""
        rgb = load_rgb(picture)
        frame = rgb_to_i420(rgb, self.card.color)
        wh = (rgb.shape[1], rgb.shape[0])
        names = ["boxes", "scores", "classes", *self._inside]
        batch = np.repeat(frame[None], self._export.batch or 1, axis=0)
        outputs = [values[0] for values in self._fused.run(names, {"frame": batch})]
        boxes, scores, class_ids, image, cxcywh, logits = outputs
        found = reference.Detections(
            boxes.astype(np.float64), scores.astype(np.float64), class_ids.astype(np.int64)
        )
        color, side = self.card.color, self._export.resolution
        wanted = reference.preprocess_i420(frame, side, color.matrix, color.is_full_range)
        box_px, score, _ = compare_detections(found, self._decode(cxcywh, logits, wh), 0.0)
        expected = self._run(wanted, wh)
        end_box_px, end_score, compared = compare_detections(found, expected, self._least_score)
        from_rgb = self._run(reference.preprocess_rgb(rgb, side), wh)
        confident = expected.scores >= self.card.default_score
        i420 = np.abs(expected.scores - from_rgb.scores)[confident].max(initial=0.0)
        return Difference(
            picture=picture,
            input=float(np.abs(image - wanted).max()),
            box_px=box_px,
            score=score,
            end_box_px=end_box_px,
            end_score=end_score,
            i420_score=float(i420),
            compared=compared,
        )

    def _run(self, image: NDArray[np.float64], wh: tuple[int, int]) -> reference.Detections:
        kind = helper.tensor_dtype_to_np_dtype(self._export.input_type)
        batch = np.repeat(image[None], self._export.batch or 1, axis=0).astype(kind)
        cxcywh, logits = self._network.run(
            [self._export.boxes_name, self._export.logits_name], {self._export.input_name: batch}
        )
        return self._decode(cxcywh[0], logits[0], wh)

    def _decode(
        self, cxcywh: NDArray[np.floating], logits: NDArray[np.floating], wh: tuple[int, int]
    ) -> reference.Detections:
        # Twice as many as a model reports: rounding can change which detections are the last ones.
        return reference.postprocess(
            cxcywh, logits, resolution_wh=wh, class_ids=self._class_ids, best=600
        )


def compare_detections(
    found: reference.Detections, expected: reference.Detections, least_score: float
) -> tuple[float, float, int]:
    """Compare two lists of detections.

    The n-th score is compared with the n-th expected score, a box with the nearest expected box of its class:
    detections with equal scores can change places.

    Args:
        found: the detections.
        expected: the reference's detections.
        least_score: minimum score of detections to compare.

    Returns:
        The largest box difference in pixels (infinite if a class is not expected), the largest score difference, and
        the number of compared boxes.
    """
    ranks = min(len(found.scores), len(expected.scores))
    pairs = np.abs(found.scores[:ranks] - expected.scores[:ranks])
    relevant = np.maximum(found.scores[:ranks], expected.scores[:ranks]) >= least_score
    score = float(pairs[relevant].max(initial=0.0))
    box_px = 0.0
    # Rows of score 0 are padding.
    confident = np.flatnonzero((found.scores >= least_score) & (found.scores > 0))
    for index in confident:
        same = expected.class_ids == found.class_ids[index]
        if not same.any():
            return float("inf"), score, len(confident)
        distance = np.abs(expected.xyxy[same] - found.xyxy[index]).max(axis=1)
        box_px = max(box_px, float(distance.min()))
    return box_px, score, len(confident)
