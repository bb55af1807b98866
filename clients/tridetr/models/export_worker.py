"""Exports an RF-DETR to ONNX: run by ``tridetr models export`` with the export environment's Python.

This file is started by its path, in an environment that has ``rfdetr`` and not tridetr, so it imports
neither tridetr nor anything at module level that may be missing. It speaks JSON lines on standard
output: ``{"step": "..."}`` while it works, at the end ``{"done": {...}}`` or ``{"error": "..."}``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    """Export as the command line says; 0 on success."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", help="nano, small, medium or large; checkpoints know theirs")
    parser.add_argument("--weights", required=True, help="a checkpoint, `pretrained` or `random`")
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--opset", type=int, default=17)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    # Everything that libraries print goes to standard error; the protocol keeps standard output.
    protocol = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**message: object) -> None:
        protocol.write(json.dumps(message) + "\n")

    try:
        result = export(options, lambda step: say(step=step))
    except Exception as error:  # the parent prints it: this process has no other way to tell
        import traceback

        traceback.print_exc(file=sys.stderr)
        say(error=f"{type(error).__name__}: {error}")
        return 1
    say(done=result)
    return 0


def export(options: argparse.Namespace, step: Any) -> dict[str, Any]:
    """Load and export; return the file and the facts that ONNX cannot carry."""
    step("loading PyTorch and rfdetr")
    import_torchvision()
    import rfdetr
    import torch
    from rfdetr import detr

    torch.manual_seed(0)
    # Tracing needs no GPU, and an old driver would only be in the way.
    settings: dict[str, Any] = {"device": "cpu"}
    if options.resolution:
        settings["resolution"] = options.resolution
    kind = getattr(rfdetr, f"RFDETR{options.variant.capitalize()}") if options.variant else None
    if options.weights not in ("random", "pretrained"):
        step(f"loading {options.weights}")
        # Reads variant, resolution and class names from the checkpoint. That is a pickle, which could hold code; only
        # tensors and plain values are taken from it (PyTorch's `weights_only`).
        model = detr.RFDETR.from_checkpoint(options.weights, trust_checkpoint=False, **settings)
        if kind is not None and not isinstance(model, kind):
            raise ValueError(f"{options.weights} holds a {type(model).__name__}: see --variant")
    elif kind is None:
        raise ValueError("random and pretrained weights need a --variant")
    elif options.weights == "random":
        step("building the network with random weights")
        model = kind(pretrain_weights=None, **settings)
    else:
        step("fetching the pretrained weights (rfdetr keeps them)")
        model = kind(**settings)
    step("tracing the network to ONNX (a minute or two)")
    folder = options.output.parent
    with contextlib.redirect_stdout(sys.stderr):
        written = model.export(
            output_dir=str(folder),
            output_name=options.output.stem,
            opset_version=options.opset,
            dynamic_batch=True,
            verbose=False,
        )
    Path(written).replace(options.output)
    return {
        "classes": class_table(model),
        "resolution": int(model.model.resolution),
        "model": type(model).__name__,
        "rfdetr": getattr(rfdetr, "__version__", None) or _version("rfdetr"),
        "torch": torch.__version__,
    }


def class_table(model: Any) -> dict[str, int]:
    """Return class name -> id.

    COCO-pretrained models use COCO's category ids, fine-tuned ones number their classes from 0 (as
    ``predict()`` does).
    """
    from rfdetr.assets.coco_classes import COCO_CLASS_NAMES, COCO_CLASSES

    names = list(model.class_names)
    columns = int(model.model.model.class_embed.weight.shape[0])
    if names == list(COCO_CLASS_NAMES) and columns > len(names) + 1:
        return dict(zip(names, list(COCO_CLASSES), strict=False))
    return {name: index for index, name in enumerate(names[:columns])}


def import_torchvision() -> None:
    """Import torchvision, also a CUDA build beside a CPU-only PyTorch.

    There its compiled part does not load, and importing it fails on the missing operators, one by
    one. Exporting calls none of them: once they are declared, the pure Python part loads.
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
            # A collected Library takes its operators along.
            globals()["_declared_operators"] = library
            return


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


if __name__ == "__main__":
    sys.exit(main())
