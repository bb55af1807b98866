#!/usr/bin/env python3
"""Generate the chart's Grafana dashboard from a table of panels.

python tools/dashboard.py            # writes helm/tridetr/files/dashboard.json
python tools/dashboard.py --check    # fails if it is not up to date
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from tridetr.shm.boards import CameraState, SentryState

TARGET = Path(__file__).resolve().parents[1] / "helm" / "tridetr" / "files" / "dashboard.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CAMERA = 'instance=~"$instance", camera=~"$camera"'
NODE = 'instance=~"$instance"'
CAMERA_COLORS = ("blue", "green", "red", "orange", "text", "red")
SENTRY_COLORS = ("red", "green", "yellow", "orange")


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: Title of the panel.
        queries: Legend and PromQL of each query.
        unit: Grafana's name of the unit.
        kind: timeseries, stat or state-timeline.
        width: Width in columns, of 24.
        names: Text and colour of the values 0, 1, 2 and so on.
        text: Description of the panel.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    names: tuple[tuple[str, str], ...] = ()
    text: str = ""


def quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    """Return the queries of median and 95th percentile of a histogram for each camera."""
    rate = f"sum by (le, camera) (rate({metric}_bucket{{{CAMERA}}}[$__rate_interval]))"
    return tuple(
        (f"{{{{camera}}}} p{round(share * 100)}", f"histogram_quantile({share}, {rate})")
        for share in (0.5, 0.95)
    )


def rate(metric: str, labels: str = CAMERA) -> str:
    """Return the rate of a counter."""
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def colored(states: type[IntEnum], colors: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return the name and the colour of each state."""
    return tuple(zip((state.name.lower() for state in states), colors, strict=True))


ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel(
            "Cameras", (("{{instance}} {{camera}}", f"tridetr_camera_state{{{CAMERA}}}"),),
            kind="state-timeline", width=12, names=colored(CameraState, CAMERA_COLORS),
        ),
        Panel(
            "Sentry", (("{{instance}} {{camera}}", f"tridetr_sentry_state{{{CAMERA}}}"),),
            kind="state-timeline", width=12, names=colored(SentryState, SENTRY_COLORS),
        ),
        Panel(
            "Since the last frame", (("{{camera}}", f"tridetr:frame_silence:seconds{{{CAMERA}}}"),), "s",
            text="Grows while capture or camera is down.",
        ),
        Panel("Since the last result", (("{{camera}}", f"tridetr:result_silence:seconds{{{CAMERA}}}"),), "s"),
        Panel(
            "Alerts", (("{{alertname}} {{camera}}", 'ALERTS{alertname=~"Tridetr.*", alertstate="firing"}'),),
            text="docs/runbook.md has a paragraph for each.",
        ),
    ),
    "Frames": (
        Panel("Published", (("{{camera}}", rate("tridetr_frames_published_total")),), "fps"),
        Panel("With a result", (("{{camera}}", rate("tridetr_frames_inferred_total")),), "fps"),
        Panel(
            "Skipped", (("{{camera}} {{reason}}", rate("tridetr_frames_skipped_total")),), "fps",
            text="pacing: by design while calm; unchanged: the motion gate; superseded: a newer frame came first.",
        ),
        Panel(
            "Motion gate: inferences in standby",
            (
                ("{{camera}} {{reason}}", rate("tridetr_motion_gate_looks_total")),
                ("{{camera}} missed", rate("tridetr_motion_gate_missed_total")),
            ),
            "ops", text="motion: something moved; interval: nothing did; missed: nothing did, and a person was there.",
        ),
        Panel("Decoding", quantiles("tridetr_decode_seconds"), "s"),
        Panel("Age when taken", quantiles("tridetr_frame_age_seconds"), "s"),
        Panel("Reconnects", (("{{camera}}", f"increase(tridetr_reconnects_total{{{CAMERA}}}[1h])"),)),
    ),
    "Inference": (
        Panel("Request to answer", quantiles("tridetr_inference_seconds"), "s"),
        Panel("Taken to published", quantiles("tridetr_total_seconds"), "s"),
        Panel(
            "Errors", (("{{camera}} {{reason}}", rate("tridetr_inference_errors_total")),), "ops",
        ),
        Panel(
            "Triton: waiting and computing",
            (
                ("waiting", f"tridetr:triton_queue:seconds5m{{{NODE}}}"),
                (
                    "computing",
                    f"rate(nv_inference_compute_infer_duration_us{{{NODE}}}[5m]) / 1e6"
                    f" / (rate(nv_inference_request_success{{{NODE}}}[5m]) > 0)",
                ),
            ),
            "s",
        ),
        Panel("Triton: requests", (("{{model}}", rate("nv_inference_request_success", NODE)),), "reqps"),
        Panel(
            "GPU",
            (
                ("memory", f"tridetr:gpu_memory:ratio{{{NODE}}}"),
                ("use", f"nv_gpu_utilization{{{NODE}}}"),
            ),
            "percentunit", text="Empty without an NVIDIA GPU.",
        ),
        Panel(
            "Detections", (("{{camera}} {{class}}", rate("tridetr_detections_total")),), "ops", width=12,
        ),
        Panel(
            "Model", (("{{model}}, {{engine}}, {{provider}}, {{precision}}", f"tridetr_model_info{{{NODE}}} == 1"),),
            kind="stat", width=12,
        ),
    ),
    "Events": (
        Panel("State changes", (("{{camera}} to {{to}}", f"increase(tridetr_state_changes_total{{{CAMERA}}}[1h])"),)),
        Panel(
            "Events confirmed",
            (("{{camera}} {{kind}}", f"increase(tridetr_events_published_total{{{CAMERA}}}[1h])"),),
        ),
        Panel(
            "Outbox",
            (
                ("{{instance}} waiting", f"tridetr_outbox_depth{{{NODE}}}"),
                ("{{instance}} dropped", f"increase(tridetr_outbox_dropped_total{{{NODE}}}[1h])"),
            ),
        ),
        Panel("Broker", (("{{instance}}", f"tridetr_mqtt_connected{{{NODE}}}"),), kind="state-timeline",
              names=(("away", "red"), ("connected", "green"))),
        Panel("Results missed", (("{{camera}}", rate("tridetr_results_missed_total")),), "ops"),
        Panel("Store errors", (("{{instance}} {{reason}}", f"increase(tridetr_store_errors_total{{{NODE}}}[1h])"),)),
    ),
    "Viewers and processes": (
        Panel("Viewers", (("{{camera}}", f"tridetr_viewers{{{CAMERA}}}"),)),
        Panel(
            "Frames to viewers",
            (
                ("{{camera}} sent", rate("tridetr_viewer_frames_total")),
                ("{{camera}} dropped", rate("tridetr_viewer_frames_dropped_total")),
                ("{{camera}} encoded", rate("tridetr_frames_encoded_total")),
            ),
            "fps",
        ),
        Panel(
            "Restarts in an hour",
            (
                ("{{process}}", f"increase(tridetr_process_restarts_total{{{NODE}}}[1h])"),
                ("Triton {{reason}}", f"increase(tridetr_triton_restarts_total{{{NODE}}}[1h])"),
            ),
        ),
        Panel("Triton healthy", (("{{instance}}", f"tridetr_triton_healthy{{{NODE}}}"),), kind="state-timeline",
              names=(("no", "red"), ("yes", "green"))),
    ),
}  # fmt: skip


def grafana_panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """Return a panel in Grafana's JSON format."""
    mappings = [
        {
            "type": "value",
            "options": {
                str(value): {"text": text, "color": color, "index": value}
                for value, (text, color) in enumerate(panel.names)
            },
        }
    ]
    custom = {"fillOpacity": 80 if panel.kind == "state-timeline" else 10, "lineWidth": 1}
    options: dict[str, Any] = {}
    if panel.kind == "stat":
        custom, options = {}, {"textMode": "name", "colorMode": "none"}
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "custom": custom,
        "mappings": mappings if panel.names else [],
    }
    if panel.kind == "timeseries":
        defaults["min"] = 0
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": 8},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "expr": query,
                "legendFormat": legend,
                "datasource": SOURCE,
            }
            for index, (legend, query) in enumerate(panel.queries)
        ],
    }


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    """Return a dashboard variable that selects label values; by default all."""
    everything = {"text": ["All"], "value": ["$__all"]}
    return {
        "name": name, "label": label, "type": "query", "datasource": SOURCE,
        "query": {"query": query, "refId": name}, "definition": query, "refresh": 2, "sort": 1,
        "multi": True, "includeAll": True, "allValue": ".+", "current": everything,
    }  # fmt: skip


def dashboard() -> dict[str, Any]:
    """Return the whole dashboard."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        place = {"x": 0, "y": y, "w": 24, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place, "panels": []}
        )
        x, y = 0, y + 1
        for panel in row:
            if x + panel.width > 24:
                x, y = 0, y + 8
            panels.append(grafana_panel(panel, len(panels) + 1, x, y))
            x += panel.width
        y += 8
    source = {
        "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus",
    }  # fmt: skip
    return {
        "uid": "tridetr",
        "title": "tridetr",
        "tags": ["tridetr"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                source,
                variable("instance", "Node", "label_values(tridetr_camera_state, instance)"),
                variable(
                    "camera",
                    "Camera",
                    'label_values(tridetr_camera_state{instance=~"$instance"}, camera)',
                ),
            ]
        },
        "panels": panels,
    }


def main() -> None:
    text = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        sys.exit(f"{TARGET} is not up to date: run python tools/dashboard.py")


if __name__ == "__main__":
    main()
