"""Export an RF-DETR model to ONNX; run by ``tridetr models export`` with the export environment's Python.

This file is started by its path, in an environment with ``rfdetr`` but without tridetr. So it does not import
tridetr, and imports nothing at module level that may be missing. It prints JSON lines on standard output: ``{"step":
"..."}`` while it works, and ``{"done": {...}}`` or ``{"error": "..."}`` at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def main() -> int:
    """Export as specified on the command line; return the exit status, 0 on success."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--variant", help="nano, small, medium or large; default: as stored in the checkpoint"
    )
    parser.add_argument("--weights", required=True, help="a checkpoint, `pretrained` or `random`")
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    # Output of libraries goes to standard error; standard output is reserved for the protocol.
    protocol = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**message: object) -> None:
        protocol.write(json.dumps(message) + "\n")

    try:
        result = export(options, lambda step: say(step=step))
    except Exception as error:  # of any kind: the parent process prints it
        import traceback

        traceback.print_exc(file=sys.stderr)
        say(error=f"{type(error).__name__}: {error}")
        return 1
    say(done=result)
    return 0


def export(options: argparse.Namespace, step: Any) -> dict[str, Any]:
    """Load the model and export it; return the facts that the ONNX file does not contain.

    Args:
        options: the parsed command line.
        step: called with a description of each step.
    """
    step("loading PyTorch and rfdetr")
    import_torchvision()
    import rfdetr
    import torch
    from rfdetr import detr

    torch.manual_seed(0)
    # Tracing needs no GPU, and an old driver could make it fail.
    settings: dict[str, Any] = {"device": "cpu"}
    if options.resolution:
        settings["resolution"] = options.resolution
    kind = getattr(rfdetr, f"RFDETR{options.variant.capitalize()}") if options.variant else None
    if options.weights not in ("random", "pretrained"):
        step(f"loading {options.weights}")
        # Reads variant, resolution and class names from the checkpoint. It is a pickle, which could contain code, so
        # only tensors and plain values are loaded (PyTorch's `weights_only`).
        model = detr.RFDETR.from_checkpoint(options.weights, trust_checkpoint=False, **settings)
        if kind is not None and not isinstance(model, kind):
            raise ValueError(
                f"{options.weights} contains a {type(model).__name__}: correct --variant"
            )
    elif kind is None:
        raise ValueError("random and pretrained weights require --variant")
    elif options.weights == "random":
        step("building the network with random weights")
        model = kind(pretrain_weights=None, **settings)
    else:
        step("downloading the pretrained weights (rfdetr caches them)")
        model = kind(**settings)
    step("tracing the network to ONNX (takes a minute or two)")
    folder = options.output.parent
    with contextlib.redirect_stdout(sys.stderr):
        written = model.export(
            output_dir=str(folder),
            output_name=options.output.stem,
            opset_version=17,
            dynamic_batch=True,
            verbose=False,
        )
    Path(written).replace(options.output)
    return {
        "classes": class_table(model),
        "model": type(model).__name__,
        "rfdetr": version("rfdetr"),
    }


def class_table(model: Any) -> dict[str, int]:
    """Return class name -> id of a model.

    COCO-pretrained models use COCO's category ids; fine-tuned ones number their classes from 0, as ``predict()`` does.
    """
    from rfdetr.assets.coco_classes import COCO_CLASS_NAMES, COCO_CLASSES

    names = list(model.class_names)
    columns = int(model.model.model.class_embed.weight.shape[0])
    if names == list(COCO_CLASS_NAMES) and columns > len(names) + 1:
        return dict(zip(names, list(COCO_CLASSES), strict=False))
    return {name: index for index, name in enumerate(names[:columns])}


def import_torchvision() -> None:
    """Import torchvision, even if it is a CUDA build and PyTorch is CPU-only.

    In that case its compiled part cannot be loaded, and the import fails for one missing operator after the other. The
    export calls none of these operators, so they are only declared; then the Python part can be imported.
    """
    import torch

    library = None
    while True:
        try:
            import torchvision  # type: ignore[import-not-found]  # noqa: F401
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            library = library or torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{missing[1]}(Tensor x) -> Tensor")
        else:
            # Keep a reference: the operators disappear when the Library is garbage-collected.
            globals()["_declared_operators"] = library
            return


if __name__ == "__main__":
    sys.exit(main())
