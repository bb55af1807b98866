"""Tables of a report, for its page and for docs/benchmarks.md.

    python benchmarks/tables.py build/bench/bench.json                            # prints them as Markdown
    python benchmarks/tables.py build/bench/bench.json --update docs/benchmarks.md README.md

``--update`` replaces the text between ``<!-- figures: NAME -->`` and ``<!-- /figures -->`` by the table of that name,
so that all figures there come from one run; tables that the report lacks stay as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_tables import gpu_tables
from peer_tables import calm_tables, peer_tables
from table import Cell, Result, Table, markdown, update, with_least


def _ipc(name: str, result: Result) -> list[Table]:
    rows = [(case, row["p50"], row["p95"]) for case, row in result["figures"].items()]
    return [Table(name, "Shared memory, microseconds", ("", "p50", "p95"), rows, 1)]


def _ipc_others(name: str, result: Result) -> list[Table]:
    rows = [
        (way, with_least(row["handed_over"]), with_least(row["sender"]))
        for way, row in result["figures"].items()
    ]
    head = ("", "handed over: p50 (least)", "sender busy: p50 (least)")
    return [Table(name, "A frame from one process to another, microseconds", head, rows)]


def _decode(name: str, result: Result) -> list[Table]:
    def p50(row: Result, key: str) -> Cell:
        return row[key]["p50"] if key in row else None

    rows = [
        (
            kind, p50(row, "decode_ms"), with_least(row["copy_into_slot_ms"]),
            p50(row, "copy_into_fresh_array_ms"), p50(row, "to_rgb_ms"),
        )
        for kind, row in result["results"].items()
    ]  # fmt: skip
    head = ("", "decode", "copy into a slot (least)", "into a fresh array", "to RGB instead")
    return [Table(name, "Decoding, milliseconds per frame", head, rows, 1)]


def _model(name: str, result: Result) -> list[Table]:
    ratios = result["ratio of CPU time to plain ONNX Runtime fp32, bare"]
    rows = [
        (case, row["ms"]["p50"], row["ms"]["min"], row["cpu_ms"]["p50"], ratios[case])
        for case, row in result["figures"].items()
    ]
    head = ("", "ms", "least", "CPU ms", "ratio of CPU time")
    return [Table(name, f"The model alone ({result['model']})", head, rows, 1)]


def _triton(name: str, result: Result) -> list[Table]:
    server = ("in_server_input_ms", "in_server_infer_ms", "in_server_output_ms")
    rows = [
        (case, row["p50"], row["p95"], row["frames_per_second"], *(row.get(key) for key in server))
        for case, row in result["figures"].items()
    ]
    head = ("", "p50", "p95", "frames/s", "server: input", "model", "output")
    return [Table(name, f"Triton, milliseconds ({result['model']})", head, rows, 1)]


_STAGES = {
    "capture": "copying the decoded frame into a slot",
    "frame_age_when_taken": "published → taken by the detector (age of the frame)",
    "taken_to_request": "taken → request",
    "request_to_answer": "request → answer: gRPC, Triton, model",
    "answer_to_published": "answer → selection → published",
    "published_to_read": "published → read by another process",
    "camera_to_reader": "all of it",
}


def _pipeline(name: str, result: Result) -> list[Table]:
    figures, ratios = result["figures"], result["ratios"]
    tax = ratios["tax: taken to published / bare model"]
    fused = ratios["taken to published / fused model"]
    row = (
        f"{result['model']}, {result['engine']}",
        *(with_least(figures[key]) for key in ("bare_model", "fused_model", "taken_to_published")),
        f"**{tax['of_medians']:.2f}** ({tax['of_minima']:.2f}), pairs {tax['median_of_pairs']:.2f}",
        f"{fused['of_medians']:.2f} ({fused['of_minima']:.2f})",
    )
    head = ("ms: median (least)", "bare network", "graph as served", "taken → published", "tax",
            "to the graph as served")  # fmt: skip
    stages = [
        (words, figures[key]["p50"], figures[key]["p95"], figures[key]["min"])
        for key, words in _STAGES.items()
    ]
    return [
        Table(name, "The pipeline tax", head, [row]),
        Table(f"{name} stages", "Where the time goes, milliseconds", ("", "p50", "p95", "least"), stages, 1),
    ]  # fmt: skip


def _scaling(name: str, result: Result) -> list[Table]:
    tables = []
    rows = []
    for cameras, row in result["cameras"].items():
        cpu = dict(row["cpu_percent"])
        capture, model, detector = (cpu.pop(key, 0.0) for key in ("capture", "model", "detect"))
        rows.append((
            cameras, row["results_per_second_and_camera"], capture, model, detector, sum(cpu.values()),
            row["cpu_percent_per_camera"], row["until_first_results_s"],
        ))  # fmt: skip
    head = ("cameras", "results a second each", "capture, all", "model", "detector", "the rest",
            "per camera", "s until all have results")  # fmt: skip
    if rows:
        tables.append(Table(name, "Cameras: CPU in per cent of one core", head, rows, 6))
        first = next(iter(result["cameras"].values()))["memory_mib"]
        memory = [(role, float(mib)) for role, mib in first.items()]
        memory.append(("together", float(sum(first.values()))))
        tables.append(
            Table(f"{name} memory", "Memory of a node with one camera", ("", "MiB"), memory, 1)
        )
    watched = [
        (
            viewers, row["cpu_percent"]["serve"], row["frames_per_second_each"],
            row["gateway_ms_per_frame_and_viewer"],
        )
        for viewers, row in result["viewers"].items()
    ]  # fmt: skip
    if watched:
        columns = (
            "viewers",
            "gateway, % of a core",
            "frames a second each",
            "ms per frame and viewer",
        )
        tables.append(Table(f"{name} viewers", "Viewers of one camera", columns, watched, 1))
    return tables


def _browser(name: str, result: Result) -> list[Table]:
    (row,) = result["figures"].values()
    head = ("ms", "p50", "p95", "least", "pictures a second")
    rows = [
        ("camera's buffer to canvas", row["p50"], row["p95"], row["min"], result["pictures_per_second"])
    ]  # fmt: skip
    return [Table(name, f"To the canvas of Chromium {result['browser']}", head, rows)]


def _start(name: str, result: Result) -> list[Table]:
    rows: list[tuple[Cell, ...]] = []
    for model, times in result["starts"].items():
        columns = ("first frame", "server ready", "first result", "gateway")
        rows.append((model, *(with_least(times[what]) for what in columns)))
    head = (
        "s after the command: median (least)",
        "first frame",
        "server ready",
        "**first result**",
        "viewer",
    )
    return [Table(name, "Start of a node", head, rows)]


_MAKERS: dict[str, Callable[[str, Result], list[Table]]] = {
    "ipc": _ipc, "ipc_others": _ipc_others, "decode": _decode, "model": _model, "triton": _triton,
    "pipeline": _pipeline, "scaling": _scaling, "browser": _browser,
    "start": _start, "peers": peer_tables, "calm": calm_tables,
    "gpu": lambda _, result: gpu_tables(result),
}  # fmt: skip


def tables_of(name: str, result: Result) -> list[Table]:
    """Return the tables of one benchmark; none if it failed."""
    kind = name.split(",")[0]
    return _MAKERS[kind](name, result) if kind in _MAKERS and "failed" not in result else []


def summary_of(report: dict[str, Any]) -> list[Table]:
    """Return the table of the most important figures that the report has."""
    found = report["benchmarks"]
    rows: list[tuple[Cell, ...]] = []
    for name, result in found.items():
        if name.split(",")[0] == "pipeline" and "figures" in result:
            figures = result["figures"]
            outside = sum(
                figures[key]["p50"]
                for key in ("capture", "frame_age_when_taken", "taken_to_request", "answer_to_published")
            ) + figures["published_to_read"]["p50"]  # fmt: skip
            tax = result["ratios"]["tax: taken to published / bare model"]
            rows.append((
                f"latency added to the model ({result['model']}, {result['engine']})",
                f"{tax['of_medians']:.2f} ({tax['of_minima']:.2f}) × the bare network from taken to published; "
                f"{outside:.1f} ms outside the request",
            ))  # fmt: skip
    viewers = found.get("scaling", {}).get("viewers") or {}
    if viewers:
        most, row = list(viewers.items())[-1]
        rows.append((
            "viewers per core",
            f"{most} at {row['frames_per_second_each']:.0f} frames a second take "
            f"{row['cpu_percent']['serve']:.0f} % of one core",
        ))  # fmt: skip
    return [Table("summary", "What a user cares about", ("", ""), rows)] if rows else []


def all_tables(report: dict[str, Any]) -> list[Table]:
    """Return all tables of a report."""
    facts = report["machine"]
    rows: list[tuple[Cell, ...]] = [
        (key.replace("_", " "), str(value)) for key, value in facts.items() if key != "versions"
    ]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    tables = [Table("machine", "The machine", ("", ""), [*rows, ("versions", versions)])]
    tables += summary_of(report)
    for name, result in report["benchmarks"].items():
        tables += tables_of(name, result)
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="report of all benchmarks, or of one")
    parser.add_argument(
        "--update", type=Path, nargs="+", help="Markdown files with places for tables"
    )
    options = parser.parse_args()
    report = json.loads(options.report.read_text())
    tables = tables_of(name, report) if (name := report.get("benchmark")) else all_tables(report)
    if options.update is None:
        for table in tables:
            print(f"{table.name}: {table.title}\n\n{markdown(table)}\n")
        return
    for path in options.update:
        text, missing = update(path.read_text(), tables)
        path.write_text(text)
        for name in missing:
            print(f"{path}: no table {name!r} in the report; not changed", file=sys.stderr)


if __name__ == "__main__":
    main()
