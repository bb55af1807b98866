"""What a server serves, put together from Triton's model configuration and the engine's own report.

Triton 2.51 offers a Python-based backend no way to tell its clients what it chose, so the backend of the embedded
server writes a small report file, and the configuration's `parameters` say what was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tridetr.files import write_text
from tridetr.model_card import ModelCard, ModelInfo

_SHOWN_DIGITS = 12  # of a checksum


def model_info(config: Any, version: str, engine_report: str | None) -> ModelInfo:
    """Return the description of a model, by its own name and checksum where the configuration has them.

    Args:
        config: Triton's `ModelConfig` message.
        version: the version that Triton serves.
        engine_report: file that the backend wrote, if it is ours.
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
    """Return what the engine reported (`engine`, `provider`, `precision`, `reason`), if anything."""
    if path is None:
        return {}
    try:
        report = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in report.items()}


def write_report(path: Path, fields: Mapping[str, str]) -> None:
    """Write the report in one step."""
    write_text(path, json.dumps(dict(fields)))
