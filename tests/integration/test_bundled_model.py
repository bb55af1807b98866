"""The bundled model performs as documented on a sample of new scenes and on the synthetic camera's films."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tridetr.model_card import ModelCard
from tridetr.paths import model_repository_dir
from tridetr_demo.scene import CLASS_NAMES
from tridetr_demo.scene.staging import CAR, PERSON
from tridetr_demo.training.bar import Detector, scene_curves, stream_score


@pytest.fixture(scope="module")
def model() -> Path:
    return model_repository_dir() / "rfdetr_ort" / "1" / "model.onnx"


@pytest.fixture(scope="module")
def card(model: Path) -> ModelCard:
    metadata = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    found = ModelCard.from_metadata(metadata)
    assert found is not None
    return found


def test_it_is_small_and_has_a_model_card(model: Path, card: ModelCard) -> None:
    assert model.stat().st_size < 5_000_000
    assert dict(card.classes) == {name: class_id for class_id, name in CLASS_NAMES.items()}
    assert "drawn" in card.source
    assert 0.1 < card.default_score < 0.9


def test_it_detects_people_and_cars_in_new_scenes(model: Path) -> None:
    # docs/bundled-model.md has the figures of 500 scenes; those of 60 scenes may differ slightly.
    curves = scene_curves(Detector(model), 60)
    assert curves[PERSON].truths > 60
    assert curves[PERSON].average_precision() >= 0.88
    assert curves[CAR].average_precision() >= 0.95


def test_it_detects_people_of_the_synthetic_camera(model: Path, card: ModelCard) -> None:
    # A street and a hall, a frame every 2 s: 65 people, so one more or less is 0.015.
    score = stream_score(Detector(model), card.default_score, seeds=(0,), step_s=2.0)
    assert score.people > 50
    assert score.precision >= 0.92
    assert score.recall >= 0.93
