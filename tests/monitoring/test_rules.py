"""The alerts against fault series, in the real rule engine; each has its paragraph in the runbook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.prometheus import RULES, promtool

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FAULTS: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "faults.yaml").read_text())
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
COMMON = {"job": "tridetr", "instance": "n1"}


def labelled(series: str) -> str:
    """Return the series with job and instance."""
    name, _, rest = series.rstrip("}").partition("{")
    common = [f'{key}="{value}"' for key, value in COMMON.items()]
    return f"{name}{{{', '.join([*common, rest] if rest else common)}}}"


def firing(alert: str, fault: dict[str, Any], value: int) -> dict[str, Any]:
    labels = {
        "alertname": alert,
        "alertstate": "firing",
        "severity": ALERTS[alert]["labels"]["severity"],
        **COMMON,
        **fault.get("labels", {}),
    }
    inside = ", ".join(f'{key}="{text}"' for key, text in labels.items())
    return {"labels": f"ALERTS{{{inside}}}", "value": value}


def test_rules_are_right() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


def test_a_healthy_node_raises_nothing(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path / "rules.yaml")
    shutil.copy(HERE / "healthy.yaml", tmp_path)
    promtool("test", "rules", str(tmp_path / "healthy.yaml"))


def test_every_alert_has_its_fault() -> None:
    assert set(FAULTS) == set(ALERTS)


@pytest.mark.parametrize("alert", FAULTS)
def test_the_fault_raises_its_alert(alert: str, tmp_path: Path) -> None:
    """An alert is silent before its time, and fires after it with the labels of the place."""
    fault = FAULTS[alert]
    query = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    series = [
        {"series": labelled(name), "values": values} for name, values in fault["series"].items()
    ]
    cases = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "30s",
        "tests": [
            {
                "name": alert,
                "interval": "30s",
                "input_series": series,
                "promql_expr_test": [
                    {"expr": query, "eval_time": f"{fault['silent']}m", "exp_samples": []},
                    {
                        "expr": query,
                        "eval_time": f"{fault['firing']}m",
                        "exp_samples": [firing(alert, fault, 1)],
                    },
                ],
            }
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(cases))
    promtool("test", "rules", str(file))


def test_faults_that_come_and_go_raise_the_alert(tmp_path: Path) -> None:
    """For 45 s of each minute, for as long as it lasts, although the alert waits for a minute or two."""
    tests = []
    for alert, fault in FAULTS.items():
        for name, (normal, broken) in fault.get("flapping", {}).items():
            flaps = [broken, broken, broken, normal]
            calm, single = [normal] * 80, [normal] * 40 + [broken] * 3 + [normal] * 37
            for values, value in ((flaps * 20, 1), (calm, None), (single, None)):
                query = f'max_over_time(ALERTS{{alertname="{alert}", alertstate="firing"}}[19m])'
                expected = [firing(alert, fault, 1)] if value else []
                for sample in expected:
                    sample["labels"] = sample["labels"].removeprefix("ALERTS")
                tests.append(
                    {
                        "name": alert,
                        "interval": "15s",
                        "input_series": [
                            {"series": labelled(name), "values": " ".join(map(str, values))}
                        ],
                        "promql_expr_test": [
                            {"expr": query, "eval_time": "19m", "exp_samples": expected}
                        ],
                    }
                )
    file = tmp_path / "test.yaml"
    cases = {"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": tests}
    file.write_text(yaml.safe_dump(cases))
    promtool("test", "rules", str(file))


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_its_runbook_paragraph(alert: str) -> None:
    path, _, anchor = ALERTS[alert]["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.M)
    assert anchor in [heading.lower() for heading in headings]
    assert anchor == alert.lower()


def test_the_dashboard_is_up_to_date_and_whole() -> None:
    script = ROOT / "tools" / "dashboard.py"
    answer = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    panels = json.loads(RULES.with_name("dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & places, f"{panel['title']} lies on another panel"
        places |= cells
