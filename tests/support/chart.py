"""Render the chart with Helm (as a library)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tridetr.config import Config
from tridetr.config.load import parse_config

helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")

CHART = Path(__file__).resolve().parents[2] / "helm" / "tridetr"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))

Manifest = dict[str, Any]


def render(values: dict[str, Any], name: str = "demo") -> list[Manifest]:
    """Return all manifests of a release with these values."""
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name=name, namespace="cameras")
    documents: list[Manifest] = []
    for path, text in files.items():
        if path.endswith(".yaml"):
            documents += [document for document in yaml.safe_load_all(text) if document]
    return documents


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    """Return the manifests of these kinds."""
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def pods(manifests: list[Manifest]) -> list[tuple[str, Manifest]]:
    """Return (name, pod spec) of everything that runs pods."""
    found = []
    for manifest in manifests:
        name = manifest["metadata"]["name"]
        if manifest["kind"] in ("Deployment", "DaemonSet", "Job"):
            found.append((name, manifest["spec"]["template"]["spec"]))
        elif manifest["kind"] == "Pod":
            found.append((name, manifest["spec"]))
    return found


def configurations(manifests: list[Manifest]) -> list[Config]:
    return [
        parse_config(
            manifest["data"]["tridetr.yaml"], origin=Path("/etc/tridetr/node/tridetr.yaml")
        )
        for manifest in of_kind(manifests, "ConfigMap")
        if "tridetr.yaml" in manifest["data"]
    ]


def node_pods(manifests: list[Manifest]) -> list[Manifest]:
    return [
        pod for _, pod in pods(manifests) if any(c["name"] == "triton" for c in pod["containers"])
    ]
