"""Reports of the benchmarks: tables for the documentation, comparison of two runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import tables

    return tables


def series(p50: float) -> dict[str, float]:
    return {"p50": p50, "p95": 2 * p50, "min": p50 / 2}


def report(lock: float = 1.8) -> dict[str, Any]:
    ratio = {"of_medians": 1.1, "of_minima": 1.05, "median_of_pairs": 1.08}
    stages = (
        "capture", "frame_age_when_taken", "taken_to_request", "request_to_answer", "answer_to_published",
        "published_to_read", "camera_to_reader", "taken_to_published", "bare_model", "fused_model",
    )  # fmt: skip
    pipeline = {
        "model": "nano.onnx",
        "engine": "OpenVINO bf16",
        "figures": {name: series(10.0) for name in stages},
        "ratios": {
            "tax: taken to published / bare model": ratio,
            "taken to published / fused model": ratio,
        },
    }
    camera = {
        "cpu_percent": {"capture": 12.0, "model": 6.0, "detect": 1.0, "up": 0.5},
        "cpu_percent_per_camera": 19.5,
        "results_per_second_and_camera": 3.0,
        "until_first_results_s": 5.0,
        "memory_mib": {"up": 38, "model": 154},
    }
    viewers = {"cpu_percent": {"serve": 59.0}, "frames_per_second_each": 29.0,
               "gateway_ms_per_frame_and_viewer": 0.4}  # fmt: skip
    return {
        "machine": {"cpu": "some", "cores": 2, "versions": {"numpy": "2"}},
        "benchmarks": {
            "ipc": {"figures": {"lock and unlock": series(lock)}},
            "decode": {"failed": "no FFmpeg"},
            "pipeline, given": pipeline,
            "scaling": {"cameras": {"1": camera}, "viewers": {"50": viewers}},
            "scaling, every frame": {"cameras": {"1": camera}, "viewers": {}},
        },
    }


def peers() -> dict[str, Any]:
    def row(cpu: float, rate: float) -> dict[str, Any]:
        return {"cpu_percent_per_camera": cpu, "results_per_second_and_camera": rate, "memory_mib": 500,
                "latency_ms": series(200.0)}  # fmt: skip

    kinds = {"plain script": row(160, 8), "node, calm": row(20, 0.2), "node, alarmed": row(170, 8),
             "inference": {"failed": "no results"}}  # fmt: skip
    return {"benchmark": "peers", "model": "nano.onnx", "engine": "OpenVINO bf16",
            "frame": {"fps": 30}, "cameras": {"1": kinds}}  # fmt: skip


def test_peers_are_ratios_to_the_plain_script(tables: Any) -> None:
    beside, cost, machines = tables.tables_of("peers", peers())
    rows = {row[1]: row[2:] for row in beside.rows}
    assert rows["plain script"][:3] == (1.0, 8, 1.0)
    assert rows["node, calm"][0] == 0.125
    assert rows["node, alarmed"][2] == pytest.approx(170 / 160)
    assert rows["inference"][0] == "failed"
    assert "core-seconds" in cost.rows[0][1]
    assert [row[1] for row in machines.rows] == ["8", "16", "32"]


def test_a_calm_camera_is_a_ratio_to_the_plain_script(tables: Any) -> None:
    calm = {
        "minutes": 9.0,
        "node_cpu_percent": 21.0,
        "node_cpu_percent_mean": 30.0,
        "plain_cpu_percent": 190.0,
        "ratio": 0.111,
        "ratio_of_means": 0.16,
        "by_role": {"capture cam0": 12.0, "model": 8.0},
        "calm_inferences_per_second": 0.3,
        "visits": 5,
        "visits_missed": 1,
        "latest_delay_s": 0.3,
    }
    result = {"model": "nano.onnx", "engine": "OpenVINO bf16", "calm": calm}
    table, cost = tables.tables_of("calm", result)
    rows = dict(table.rows)
    assert "**0.111**" in rows["node / plain script"]
    assert rows["visits noticed"].startswith("4 of 5, at most 0.300 s later")
    assert "0.11 × a plain script" in cost.rows[0][1]


def test_tables_are_inserted_into_a_document(tables: Any) -> None:
    def place(name: str, text: str) -> str:
        return f"<!-- figures: {name} -->\n{text}<!-- /figures -->"

    document = "\n".join(
        [
            "before",
            place("ipc", "| old |\n"),
            "between",
            place("decode", "| kept |\n"),
            place("summary", ""),
        ]
    )
    text, missing = tables.update(document, tables.all_tables(report()))
    assert missing == ["decode"]
    assert "| lock and unlock | 1.80 | 3.60 |" in text
    assert "| old |" not in text
    assert "| kept |" in text
    assert "50 at 29 frames a second take 59 % of one core" in text
    assert "1.10 (1.05) × the bare network" in text
    assert tables.update(text, tables.all_tables(report())) == (text, missing), "again: no change"


def test_all_tables_of_the_documentation_can_be_generated(tables: Any) -> None:
    import re

    text = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text()
    asked = set(re.findall(r"<!-- figures: ([^>]+?) -->", text))
    kinds = {name.split(",")[0].split()[0] for name in asked}
    assert asked
    assert kinds <= {*tables._MAKERS, "summary", "machine", "gpu"}
    assert text.count("<!-- /figures -->") == len(re.findall("<!-- figures: ", text))


def test_the_comparison_marks_changes(tmp_path: Path) -> None:
    for name, lock in (("a", 1.8), ("b", 3.6)):
        (tmp_path / f"{name}.json").write_text(json.dumps(report(lock)))
    line = [sys.executable, str(BENCHMARKS / "compare.py"), str(tmp_path / "a.json")]
    done = subprocess.run([*line, str(tmp_path / "b.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = (r for r in done.stdout.splitlines() if r.startswith("ipc: lock and unlock"))
    assert row.split()[-4:] == ["1.8", "3.6", "2.000", "*"]
    gone = subprocess.run([*line, str(tmp_path / "no.json")], capture_output=True, text=True)
    assert gone.returncode == 2
    assert "no.json is not there" in gone.stderr


def gpu_report() -> dict[str, Any]:
    """Return a report like that of `make bench-gpu`, with made-up figures."""
    common = {
        "machine": {"cpu": "some", "cores": 16},
        "gpu": {"driver": "580.1", "cuda": [13, 0], "gpus": [{"name": "A card"}]},
    }

    def part(**figures: Any) -> dict[str, Any]:
        return {**common, "figures": figures}

    fast = {"ms": series(2.0), "frames_per_second": 500.0}
    ways = {
        "engine, graph": {"mib": 300.5, "batch 1": fast, "batch 8": fast},
        "graphs in one session": {"not_measured": "ONNX Runtime refuses"},
    }
    node = {"results_per_second": 410.0, "total_ms": [series(3.0), None], "restarts": {},
            "contexts": ["1, 500 MiB", "2, 600 MiB"],
            "gpu_busy_decoder_busy_memory": ["80 %, 10 %, 2000 MiB"]}  # fmt: skip
    return {
        "benchmark": "gpu",
        "parts": {
            "check": part(ring={"ok": True}, video={"ok": False}),
            "engine": part(
                model="nano.onnx", onnxruntime="1.31.1", **{"for cuda": ["half: True"], "ways": ways}
            ),
            "live 8": part(**{"8 cameras, decode: cpu": node, "8 cameras, decode: gpu": {"failed": []}}),
            "perf": part(**{"CUDA shared memory": series(4.0)}),
            "copies": part(cases={"to device, pinned": {"gpu_ms": series(0.077)}}),
            "footage": {"failed": "status 1: no model"},
            "sanitize": part(memcheck={"not_run": "compute-sanitizer is not installed"}),
        },
    }  # fmt: skip


def test_the_gpu_tables_of_the_documentation_come_from_the_report(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text((BENCHMARKS.parent / "docs" / "benchmarks.md").read_text())
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps(gpu_report()))
    line = [sys.executable, str(BENCHMARKS / "tables.py"), str(file), "--update", str(page)]
    subprocess.run(line, check=True, capture_output=True)
    text = page.read_text()
    assert "Not measured yet." not in text
    for row in (
        "| card | A card |",
        "| parts that failed | footage (status 1: no model) |",
        "| engine, graph | 300 | 2.00 | 500 | – | – | 500 |",
        "| graphs in one session | – | – | ONNX Runtime refuses | – | – | – |",
        "| 8 cameras, decode: cpu | 410 | 3.00 | 80 %, 10 %, 2000 MiB | 2 | 0 |",
        "| 8 cameras, decode: gpu | failed | – | – | – | – |",
        "| video as on the CPU | **no** |",
        "| memcheck finds nothing | compute-sanitizer is not installed |",
        "| a 1080p frame to device, pinned, ms | 0.077 |",
    ):
        assert row in text
