"""Complete rendered manifests, reviewed manually: a change of the chart shows as a difference of these files.

TRIDETR_WRITE_GOLDEN=1 pytest tests/helm/test_golden.py     # regenerates them after an intended change
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from support.chart import EXAMPLES, render

GOLDEN = Path(__file__).parent / "golden"
REVIEWED = {"cpu-demo", "evidence", "rtsp-gpu"}


@pytest.mark.parametrize(
    "example", [e for e in EXAMPLES if e.stem in REVIEWED], ids=lambda e: e.stem
)
def test_render_is_as_reviewed(example: Path) -> None:
    manifests = [
        manifest
        for manifest in render(yaml.safe_load(example.read_text()))
        # The dashboard is generated, and has its own tests
        if "dashboard" not in manifest["metadata"]["name"]
    ]
    for manifest in manifests:
        # Changes with the configuration, which is part of the same file
        template = (
            manifest["spec"]["template"]["metadata"] if manifest["kind"] == "Deployment" else {}
        )
        template.get("annotations", {}).pop("checksum/config", None)
    text = yaml.safe_dump_all(manifests, sort_keys=True, width=110)
    file = GOLDEN / f"{example.stem}.yaml"
    if os.environ.get("TRIDETR_WRITE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()
