"""Make the bundled model from the trained export: `python -m tridetr_demo.training.publish EXPORT.onnx OUT.onnx`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tridetr.model_card import FrameColor
from tridetr.models.fuse import fuse
from tridetr_demo.scene import CLASS_NAMES
from tridetr_demo.scene.staging import PERSON
from tridetr_demo.training.bar import Detector, scene_curves

SOURCE = "bundled demonstration model, trained on drawn scenes (python -m tridetr_demo.training)"
VALIDATION_SEED = 10_000_019
TOPK = 100
SMALLEST = 256
LARGEST_HALF = 65504.0


def publish(
    export: Path, out: Path, *, scenes: int = 150, default_score: float | None = None
) -> float:
    """Fuse the export to the model contract, choose the default score, and write a small file.

    Args:
        export: ONNX export of the training.
        out: File for the fused model; replaced atomically.
        scenes: Number of validation scenes for choosing the score.
        default_score: The score; None chooses the one with the best F1 for people.

    Returns:
        The default score of the model.
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


def store_as_halves(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store each large float32 weight as float16 with a Cast node, which engines fold when they load the model.

    This halves the file; the model still computes in float32.

    Args:
        model: Any model; it is not changed.

    Returns:
        A copy with the same inputs, outputs, opset and metadata.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    casts: list[onnx.NodeProto] = []
    for weight in small.graph.initializer:
        if weight.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(weight)
        if values.size < SMALLEST or np.abs(values).max() > LARGEST_HALF:
            continue
        name, stored = weight.name, weight.name + "/half"
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(
            helper.make_node("Cast", [stored], [name], name=name + "/cast", to=TensorProto.FLOAT)
        )
    nodes = list(small.graph.node)
    del small.graph.node[:]
    # The first node of a fused model casts the frame, and must stay the first
    weights = {cast.output[0] for cast in casts}
    first = 0 if weights & set(nodes[0].input) else 1
    small.graph.node.extend([*nodes[:first], *casts, *nodes[first:]])
    onnx.checker.check_model(small)
    return small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("export", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scenes", type=int, default=150, help="validation scenes")
    parser.add_argument(
        "--score", type=float, help="default score; chosen on the validation scenes by default"
    )
    options = parser.parse_args()
    score = publish(options.export, options.out, scenes=options.scenes, default_score=options.score)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB, default score {score}")


if __name__ == "__main__":
    main()
