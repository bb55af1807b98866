"""What the chart makes of rules and dashboard, with and without the operator's kinds."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.chart import CHART, Manifest, helm, of_kind, render
from support.prometheus import RULES

# All that changes what Prometheus' operator is given.
FULL: dict[str, Any] = {
    "nodes": [],
    "daemonSet": {"enabled": True, "cameras": {"cam": {"source": "synthetic"}}},
    "state": {"type": "hostPath"},
    "gateway": {"tokenSecret": "viewer"},
    "monitoring": {
        "podMonitor": {"labels": {"release": "prometheus"}, "interval": "30s"},
        "rules": {"labels": {"release": "prometheus"}},
    },
}


@pytest.fixture
def operator_chart(tmp_path: Path) -> Path:
    """Return a copy of the chart that assumes the operator: Helm's library has no option for resource types."""
    copy = tmp_path / "tridetr"
    shutil.copytree(CHART, copy)
    file = copy / "templates" / "monitoring.yaml"
    text = file.read_text()
    for kind in ("PodMonitor", "PrometheusRule"):
        asked = f'($.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/{kind}")'
        assert asked in text
        text = text.replace(asked, "true")
    file.write_text(text)
    return copy


def rendered(chart: Path, values: dict[str, Any]) -> list[Manifest]:
    with helm.Chart.load(str(chart)) as loaded:
        loaded.validate_schema(values)
        files = loaded.render(values, name="demo", namespace="cameras")
    return [
        document
        for document in yaml.safe_load_all(files["tridetr/templates/monitoring.yaml"])
        if document
    ]


def test_without_the_operator_there_are_annotations_and_the_dashboard() -> None:
    manifests = render({})
    assert not of_kind(manifests, "PodMonitor", "PrometheusRule")
    (node,) = [m for m in of_kind(manifests, "Deployment") if m["metadata"]["name"] == "demo-demo"]
    annotations = node["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/path"] == "/metrics"
    (dashboard,) = [m for m in of_kind(manifests, "ConfigMap") if "tridetr.json" in m["data"]]
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["tridetr.json"])["uid"] == "tridetr"


def test_with_the_operator_pods_are_scraped_and_rules_loaded(operator_chart: Path) -> None:
    manifests = rendered(
        operator_chart,
        {
            "gateway": {"tokenSecret": "viewer"},
            "monitoring": {
                "rules": {"labels": {"release": "prometheus"}},
                "podMonitor": {"labels": {"release": "prometheus"}, "interval": "30s"},
            },
        },
    )
    (rule,) = of_kind(manifests, "PrometheusRule")
    home = "https://github.com/tridetr/tridetr/blob/main/docs/runbook.md"
    assert rule["spec"] == yaml.safe_load(RULES.read_text().replace("docs/runbook.md", home))
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    (monitor,) = of_kind(manifests, "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert "tridetr" in monitor["metadata"]["name"], "the alert on `up` looks for it"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["path"], endpoint["interval"]) == ("/metrics", "30s")
    assert endpoint["authorization"]["credentials"] == {"name": "viewer", "key": "token"}
    (node,) = [m for m in of_kind(render({}), "Deployment") if m["metadata"]["name"] == "demo-demo"]
    pod = node["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    ports = [port["name"] for c in pod["spec"]["containers"] for port in c.get("ports", [])]
    assert endpoint["port"] in ports
    assert "tridetr/node" in labels, "the instance label is made of it"


def test_the_links_lead_to_the_runbook_that_is_named(operator_chart: Path) -> None:
    home = "https://wiki.example.org/cameras"
    manifests = rendered(operator_chart, {"monitoring": {"rules": {"runbookUrl": home}}})
    (rule,) = of_kind(manifests, "PrometheusRule")
    links = [
        each["annotations"]["runbook_url"]
        for group in rule["spec"]["groups"]
        for each in group["rules"]
        if "alert" in each
    ]
    assert links
    assert all(link.startswith(f"{home}#tridetr") for link in links)


# Prints what the operator's models keep of each manifest. They ignore unknown keys, so what they kept is compared.
KEEP = """
import json, sys
from cloudcoil.models.prometheus_operator import v1
for manifest in json.load(sys.stdin):
    kept = getattr(v1, manifest["kind"]).model_validate(manifest)
    print(json.dumps(kept.model_dump(mode="json", by_alias=True, exclude_unset=True)))
"""


def kept(manifests: list[Manifest]) -> list[Manifest]:
    """Return what models made from the operator's own CRDs (0.80) keep of manifests.

    They come with a pytest plugin and a dozen packages, so they live in a folder of their own.
    """
    folder = os.environ.get("TRIDETR_OPERATOR_MODELS")
    if not folder:
        pytest.skip(
            "TRIDETR_OPERATOR_MODELS names no folder with the operator's models; make one with "
            "pip install --target FOLDER cloudcoil-models-prometheus-operator==0.80.1"
        )
    done = subprocess.run(
        [sys.executable, "-c", KEEP], input=json.dumps(manifests), check=True,
        env={**os.environ, "PYTHONPATH": folder}, capture_output=True, text=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_operators_kinds_keep_their_schema(operator_chart: Path) -> None:
    manifests = [
        manifest
        for values in ({}, FULL)
        for manifest in of_kind(rendered(operator_chart, values), "PodMonitor", "PrometheusRule")
    ]
    assert len(manifests) == 4
    typo = copy.deepcopy(of_kind(manifests, "PodMonitor")[0])
    typo["spec"]["podMetricsEndpoints"][0]["intervall"] = "15s"
    *right, wrong = kept([*manifests, typo])
    assert right == manifests
    assert wrong != typo, "the comparison would not notice a typo"


def test_each_part_can_be_switched_off(operator_chart: Path) -> None:
    parts = ("podMonitor", "rules", "dashboard")
    assert rendered(operator_chart, {"monitoring": {p: {"enabled": False} for p in parts}}) == []
    assert len(rendered(operator_chart, {})) == 3
