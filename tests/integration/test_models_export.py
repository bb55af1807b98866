"""The real exporter: needs an environment with rfdetr, named by TRIDETR_EXPORT_PYTHON."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from tridetr.models import export_worker
from tridetr.models.export import export
from tridetr.models.onnx_file import read_card
from tridetr.models.pull import fuse_file
from tridetr.models.runtime import open_session

CHECKPOINT = """
import sys
sys.path.insert(0, sys.argv[1])
from export_worker import import_torchvision
import_torchvision()
import rfdetr, torch
model = rfdetr.RFDETRNano(pretrain_weights=None, num_classes=2, device="cpu")
args = {"num_classes": 2, "class_names": ["hedgehog", "fox"], "pretrain_weights": "rf-detr-nano.pth"}
state = {"model": model.model.model.state_dict(), "args": args, "model_name": "RFDETRNano"}
torch.save(state, sys.argv[2])
"""


@pytest.fixture
def python() -> Path:
    path = os.environ.get("TRIDETR_EXPORT_PYTHON")
    if not path:
        pytest.skip("TRIDETR_EXPORT_PYTHON names no interpreter that has rfdetr")
    return Path(path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fine_tuned_checkpoint_is_exported(python: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "best.pth"
    worker_folder = Path(export_worker.__file__).parent
    subprocess.run(
        [python, "-c", CHECKPOINT, worker_folder, checkpoint], check=True, capture_output=True
    )
    steps: list[str] = []
    facts = export(
        tmp_path / "export.onnx", python=python, weights=str(checkpoint), step=steps.append
    )
    assert facts.classes == {"hedgehog": 0, "fox": 1}
    assert len(steps) >= 3
    onnx.save(fuse_file(tmp_path / "export.onnx"), tmp_path / "model.onnx")
    card = read_card(tmp_path / "model.onnx")
    assert card is not None
    assert (card.resolution, dict(card.classes)) == (384, {"hedgehog": 0, "fox": 1})
    frames = np.random.default_rng(0).integers(0, 256, (2, 720, 640), np.uint8)
    session = open_session(tmp_path / "model.onnx")
    boxes, scores, classes = session.run(["boxes", "scores", "classes"], {"frame": frames})
    assert boxes.shape == (2, 300, 4)
    assert set(classes[scores > 0].tolist()) <= {0, 1}
