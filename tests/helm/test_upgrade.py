"""Upgrades from earlier versions of the chart: their values still work, and no object has to be deleted manually.

`released/VERSION.yaml` has the values of each example of that version, and the fields that Kubernetes makes immutable.
PYTHONPATH=tests python tests/helm/test_upgrade.py > tests/helm/released/VERSION.yaml     # before a release
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from support.chart import EXAMPLES, Manifest, render

RELEASED = Path(__file__).parent / "released"
RECORDS = [
    (f"{file.stem}-{name}", record)
    for file in sorted(RELEASED.glob("*.yaml"))
    for name, record in yaml.safe_load(file.read_text()).items()
]


def fixed(manifests: list[Manifest]) -> dict[str, Any]:
    """Return the fields that the API server refuses to change, for each object."""
    found = {}
    for manifest in manifests:
        spec, name = manifest.get("spec", {}), f"{manifest['kind']}/{manifest['metadata']['name']}"
        if manifest["kind"] in ("Deployment", "DaemonSet"):
            found[name] = {"selector": spec["selector"]}
        elif manifest["kind"] == "PersistentVolumeClaim":
            found[name] = spec
    return found


@pytest.mark.parametrize("record", [r for _, r in RECORDS], ids=[name for name, _ in RECORDS])
def test_an_earlier_release_can_be_upgraded(record: dict[str, Any]) -> None:
    now = fixed(render(record["values"]))
    assert {name: now.get(name) for name in record["fixed"]} == record["fixed"]


def _record() -> dict[str, Any]:
    examples = {example.stem: yaml.safe_load(example.read_text()) for example in EXAMPLES}
    return {
        name: {"values": values, "fixed": fixed(render(values))}
        for name, values in examples.items()
    }


if __name__ == "__main__":
    print(yaml.safe_dump(_record(), sort_keys=True), end="")
