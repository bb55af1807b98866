"""Export an RF-DETR checkpoint to ONNX, with rfdetr's own exporter in a separate environment."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from tridetr.errors import ModelError
from tridetr.models import export_worker
from tridetr.models.installed_models import replacing
from tridetr.models.onnx_file import load_model, set_metadata
from tridetr.models.raw_export import RawExport, export_metadata

PRETRAINED, RANDOM = "pretrained", "random"


def export(
    output: Path,
    *,
    python: Path,
    weights: str,
    variant: str | None = None,
    resolution: int | None = None,
    step: Callable[[str], None] = lambda text: None,
) -> RawExport:
    """Export an RF-DETR model to ONNX and return the interface of the export.

    Args:
        output: the ONNX file to write.
        python: interpreter of an environment that has ``rfdetr``.
        weights: path of a checkpoint, ``pretrained`` or ``random``.
        variant: nano, small, medium or large; None = as stored in the checkpoint.
        resolution: side of the input in pixels; None = the variant's or the checkpoint's.
        step: called with a description of each step.

    Raises:
        ModelError: the checkpoint does not exist, the weights cannot be downloaded, or the exporter failed.
    """
    if weights not in (PRETRAINED, RANDOM):
        if not Path(weights).is_file():
            raise ModelError(
                f"{weights}: no such checkpoint. Use a file, `{PRETRAINED}` or `{RANDOM}`"
            )
        weights = str(Path(weights).resolve())
    elif variant is None:
        raise ModelError(f"--weights {weights} requires --variant")
    with replacing(output) as written:
        command = [str(python), str(Path(export_worker.__file__).resolve())]
        command += ["--weights", weights, "--output", str(written)]
        command += ["--variant", variant] if variant else []
        command += ["--resolution", str(resolution)] if resolution else []
        result = _run(command, step, weights)
        model = load_model(written)
        name = Path(weights).name if weights not in (PRETRAINED, RANDOM) else f"{weights} weights"
        source = f"{result['model']} ({name}), rfdetr {result['rfdetr']}"
        set_metadata(model, export_metadata(result["classes"], source))
        exported = RawExport.of(model)
        onnx.save(model, written)
    return exported


def _run(command: list[str], step: Callable[[str], None], weights: str) -> dict[str, Any]:
    """Run the worker and return its result; if it fails, the error contains the end of its standard error."""
    with tempfile.TemporaryFile("w+") as log:
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        except OSError as error:
            raise ModelError(f"cannot run {command[0]}: {error}") from error
        assert process.stdout is not None
        outcome: dict[str, Any] = {}
        with process:
            try:
                for line in process.stdout:
                    message = json.loads(line)
                    if "step" in message:
                        step(message["step"])
                    else:
                        outcome = message
            finally:
                if process.poll() is None and not outcome:
                    process.terminate()
        log.seek(0)
        tail = "\n  ".join(log.read().strip().splitlines()[-6:])
    if "done" in outcome:
        done = outcome["done"]
        assert isinstance(done, dict)
        return done
    cause = outcome.get("error", f"the exporter exited with status {process.returncode}")
    if weights == PRETRAINED and _looks_offline(f"{cause} {tail}"):
        raise ModelError(
            "cannot download the pretrained weights: this machine cannot reach Roboflow's storage "
            f"({cause}). Download the checkpoint elsewhere and pass it with --weights FILE."
        )
    raise ModelError(f"the export failed: {cause}\n  {tail}")


def _looks_offline(text: str) -> bool:
    signs = ("ConnectionError", "Max retries", "Name or service", "resolve", "Timeout", "URLError",
             "NewConnectionError", "ProxyError")  # fmt: skip
    return any(sign in text for sign in signs)
