"""A real Prometheus scrapes a running node, Triton included: every metric in rules and panels exists."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator

import pytest
import yaml

from support.prometheus import RULES, Prometheus, running_prometheus
from support.waiting import wait_for
from support.watched import Watched

DASHBOARD = RULES.with_name("dashboard.json")
# What Triton shows only where there is an NVIDIA GPU.
ON_GPUS_ONLY = {"nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes", "nv_gpu_utilization"}
NAME = re.compile(r"\b(?:tridetr|nv)_[a-z0-9_]+|\btridetr:[a-z0-9_:]+")


def metrics_of(expression: str) -> set[str]:
    """Return the metrics that a PromQL expression names."""
    return set(NAME.findall(re.sub(r"\{[^}]*\}", "", expression)))


def rules() -> list[dict[str, str]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[str]:
    return [
        target["expr"]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", [])
    ]


@pytest.fixture(scope="module")
def prometheus(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    target = watched.node.url.removeprefix("http://")
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), target) as server:
        wait_for(
            lambda: "nv_inference_request_success" in server.names(), 60, "no metrics of Triton"
        )
        yield server


def test_every_named_metric_exists(prometheus: Prometheus, watched: Watched) -> None:
    expressions = [rule["expr"] for rule in rules()] + panels()
    wanted = set().union(*map(metrics_of, expressions)) - ON_GPUS_ONLY
    assert len(wanted) > 30
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    no_gpu = {"tridetr:gpu_memory:ratio"}
    wanted -= no_gpu
    assert {name for name in wanted if ":" in name} <= recorded, "a recorded rule that is not there"
    missing = wanted

    def complete() -> bool:
        nonlocal missing
        missing = wanted - prometheus.names()
        return not missing

    # A rate needs two samples and something that moves between them.
    with contextlib.suppress(AssertionError):
        wait_for(complete, 60)
    assert not missing


def test_every_rule_and_panel_can_be_evaluated(prometheus: Prometheus) -> None:
    def evaluated() -> bool:
        return all(rule["health"] != "unknown" for rule in prometheus.rules())

    wait_for(evaluated, 30, "rules were not evaluated")
    assert [rule for rule in prometheus.rules() if rule["health"] != "ok"] == []
    for expression in panels():
        prometheus.query(
            expression.replace("$__rate_interval", "1m")
            .replace("$camera", ".+")
            .replace("$instance", ".+")
        )


def test_a_node_at_work_has_sane_values_and_no_alert(prometheus: Prometheus) -> None:
    def silence() -> float | None:
        return prometheus.value("tridetr:result_silence:seconds")

    wait_for(lambda: (age := silence()) is not None and 0 <= age < 10, 60, f"{silence()}")
    assert prometheus.value("tridetr_triton_healthy") == 1
    assert {series["metric"]["model"] for series in prometheus.query("tridetr_triton_healthy")} == {
        "rfdetr_ort"
    }
    assert prometheus.value("tridetr_camera_state") == 1
    assert prometheus.value("tridetr_mqtt_connected") == 1
    share = prometheus.value("tridetr:triton_queue:share5m")
    assert share is None or 0 <= share <= 1
    firing = {
        rule["name"]
        for rule in prometheus.rules()
        if rule["type"] == "alerting" and rule["state"] == "firing"
    }
    # A loaded test machine may be slow; everything else would be wrong.
    assert firing <= {
        "TridetrSlow",
        "TridetrFramesOld",
        "TridetrDetectorBehind",
        "TridetrTritonQueueing",
    }


@pytest.mark.parametrize("process", ["detector"])
def test_a_restart_is_counted_from_zero(
    prometheus: Prometheus, watched: Watched, process: str
) -> None:
    query = f'tridetr_process_restarts_total{{process="{process}"}}'
    before = prometheus.value(query)
    assert before is not None
    watched.node.children()["detect"].kill()
    wait_for(lambda: prometheus.value(query) == before + 1, 60, "the restart was not counted")


def test_no_family_is_on_the_page_twice(watched: Watched) -> None:
    page = watched.node.get("/metrics").decode()
    families = re.findall(r"^# TYPE (\S+)", page, re.M)
    assert len(families) == len(set(families))
    assert any(name.startswith("nv_") for name in families)
