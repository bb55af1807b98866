"""Describe the served model, from Triton's model configuration and the engine's report file.

Triton 2.51 has no way for a Python-based backend to report to clients which provider it chose. So the backend of the
embedded server writes a small report file; the `parameters` of the model configuration contain what was requested.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tridetr.files import write_text
from tridetr.model_card import ModelCard, ModelInfo

_SHOWN_DIGITS = 12  # digits of the checksum in a version


def model_info(config: Any, version: str, engine_report: str | None) -> ModelInfo:
    """Return the description of a model, with its own name and checksum if the configuration contains them.

    Args:
        config: Triton's `ModelConfig` message.
        version: the version that Triton serves.
        engine_report: path of the engine's report file; None if there is none.
    """
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    report = read_report(engine_report)
    card = ModelCard.from_metadata(parameters, prefix="")
    return ModelInfo(
        name=parameters.get("model_name") or config.name,
        version=card.checksum[:_SHOWN_DIGITS] or version,
        engine=report.get("engine") or config.backend or config.platform,
        provider=report.get("provider") or parameters.get("provider") or "unknown",
        precision=report.get("precision") or card.precision,
        classes=card.classes,
        checksum=card.checksum,
        default_score=card.default_score,
        color=card.color.value if card.contract else "frame",
    )


def read_report(path: str | None) -> dict[str, str]:
    """Return the fields of an engine's report (`engine`, `provider`, `precision`, `reason`); empty if unreadable."""
    if path is None:
        return {}
    try:
        report = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in report.items()}


def write_report(path: Path, fields: Mapping[str, str]) -> None:
    """Write an engine's report file atomically."""
    write_text(path, json.dumps(dict(fields)))
