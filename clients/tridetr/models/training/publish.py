"""From the trained export to the bundled model: `python -m tridetr.models.training.publish EXPORT.onnx OUT.onnx`."""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx

from tridetr.models.color import FrameColor
from tridetr.models.fuse import fuse
from tridetr.models.training.bar import Detector, scene_curves
from tridetr.models.training.halves import store_as_halves
from tridetr.scene import CLASS_NAMES
from tridetr.scene.staging import PERSON

SOURCE = "bundled demonstration model, trained on drawn scenes (python -m tridetr.models.training)"
VALIDATION_SEED = 10_000_019
TOPK = 100


def publish(
    export: Path, out: Path, *, scenes: int = 150, default_score: float | None = None
) -> float:
    """Fuses the export to the model contract, chooses the default score and writes a small file.

    Args:
        export: Plain ONNX of the training.
        out: Where the fused model goes; replaced whole.
        scenes: Validation scenes to choose the score on.
        default_score: The score, if it need not be chosen.

    Returns:
        The default score that went into the model: the one with the best F1 for people.
    """
    model = onnx.load(export)

    def fused(score: float) -> onnx.ModelProto:
        # Full-range BT.601 is what the synthetic camera and MJPEG cameras deliver.
        classes = {name: class_id for class_id, name in CLASS_NAMES.items()}
        whole = fuse(model, classes=classes, class_ids=list(CLASS_NAMES), topk=TOPK, default_score=score,
                     source=SOURCE, color=FrameColor.BT601_FULL)  # fmt: skip
        return store_as_halves(whole)

    if default_score is None:
        curves = scene_curves(Detector(fused(0.5)), scenes, VALIDATION_SEED)
        default_score = round(curves[PERSON].best_threshold(), 2)
    partial = out.with_suffix(".partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(fused(default_score), partial)
    partial.replace(out)
    return default_score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("export", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scenes", type=int, default=150, help="validation scenes")
    parser.add_argument(
        "--score", type=float, help="default score; chosen on the validation scenes if left out"
    )
    options = parser.parse_args()
    score = publish(options.export, options.out, scenes=options.scenes, default_score=options.score)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB, default score {score}")


if __name__ == "__main__":
    main()
