"""Runs all benchmarks and writes one self-contained HTML page and one JSON file (`make bench`).

    python benchmarks/report.py [--out build/bench] [--only ipc pipeline] [--quick] [--model EXPORT.onnx]

Each benchmark is a process of its own; one that fails is named in the report and does not stop the others.
"""

from __future__ import annotations

import argparse
import ast
import html
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import machine
from compare import flatten

HERE = Path(__file__).parent
# name: script, arguments of a whole run, arguments of a quick one, whether it takes a model
BENCHMARKS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], bool]] = {
    "ipc": ("ipc.py", (), ("--rounds", "400"), False),
    "ipc_others": ("ipc_others.py", (), ("--rounds", "60"), False),
    "decode": ("decode.py", (), ("--frames", "30"), False),
    "model": ("model.py", (), ("--runs", "5"), True),
    "triton": ("triton.py", (), ("--seconds", "2"), True),
    "pipeline": ("pipeline.py", (), ("--frames", "10"), True),
    "scaling": ("scaling.py", (), ("--seconds", "3", "--cameras", "1", "2", "--viewers", "1"), False),
    "browser": ("browser.py", (), ("--seconds", "5"), False),
}  # fmt: skip
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430 }
h2 { margin-top: 2.5rem } pre { white-space: pre-wrap; background: #f3f5f8; padding: .7rem; border-radius: 6px }
table { border-collapse: collapse; width: 100% } td, th { padding: .15rem .5rem; text-align: right }
td:first-child, th:first-child { text-align: left } tr:nth-child(even) { background: #f7f8fa }
.bar { width: 30% } .bar i { display: block; height: .8rem; background: #3b6fb6; border-radius: 2px; min-width: 1px }
.failed { color: #a40000 } svg { max-width: 100%; height: auto } td { font-variant-numeric: tabular-nums }
@media (prefers-color-scheme: dark) { body { background: #12161c; color: #dde3ea } pre { background: #1d242d }
  tr:nth-child(even) { background: #181e26 } svg { background: #fff } }
"""


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one benchmark; return what it wrote, or why there is nothing."""
    script, full, quick, takes_model = BENCHMARKS[name]
    file = options.out / f"{name}.json"
    file.unlink(missing_ok=True)
    line = [sys.executable, str(HERE / script), *(quick if options.quick else full)]
    if takes_model and options.model:
        line.append(str(options.model))
    print(f"{name}: python benchmarks/{' '.join([script, *line[2:]])}", flush=True)
    began = time.monotonic()
    with (options.out / f"{name}.log").open("w") as log:
        done = subprocess.run(
            [*line, "--json", str(file)], stdout=log, stderr=subprocess.STDOUT, timeout=1800
        )
    result: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if done.returncode:
        said = (options.out / f"{name}.log").read_text().strip().splitlines()
        result["failed"] = "\n".join(said[-5:]) or f"exit code {done.returncode}"
        print(f"  failed: {said[-1] if said else done.returncode}", flush=True)
    result["took_s"] = round(time.monotonic() - began, 1)
    return result


def page(report: dict[str, Any]) -> str:
    """Return the HTML page."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>tridetr benchmarks</title><style>{STYLE}</style><h1>tridetr benchmarks</h1>",
        f"<pre>{html.escape(_words(report['machine']))}</pre>",
    ]
    for name, result in report["benchmarks"].items():
        source = ast.get_docstring(ast.parse((HERE / BENCHMARKS[name][0]).read_text())) or ""
        parts.append(f"<h2 id={name}>{name}</h2><pre>{html.escape(source)}</pre>")
        if failed := result.get("failed"):
            parts.append(f"<pre class=failed>failed:\n{html.escape(failed)}</pre>")
        if samples := result.get("samples"):
            parts.append(_plot(samples))
        parts.append(_table(flatten(result)))
    return "".join(parts)


def _words(facts: dict[str, Any]) -> str:
    versions = " ".join(f"{name} {number}" for name, number in facts["versions"].items())
    lines = [f"{key}: {value}" for key, value in facts.items() if key != "versions"]
    return "\n".join([*lines, f"versions: {versions}"])


def _table(rows: dict[str, dict[str, float]]) -> str:
    if not rows:
        return ""
    columns = [c for c in ("p50", "p95", "min", "value") if any(c in row for row in rows.values())]
    # Bars compare within one group: figures whose names begin alike are in the same unit
    most: dict[str, float] = {}
    for name, row in rows.items():
        group = name.rpartition(" › ")[0]
        most[group] = max(most.get(group, 0.0), row.get("p50", row.get("value", 0.0)))
    lines = [f"<table><tr><th><th>{'<th>'.join(columns)}<th class=bar></tr>"]
    for name, row in rows.items():
        top = most[name.rpartition(" › ")[0]]
        share = 100 * max(0.0, row.get("p50", row.get("value", 0.0))) / top if top > 0 else 0
        cells = "".join(f"<td>{row[c]:g}" if c in row else "<td>" for c in columns)
        bar = f"<td class=bar><i style='width:{share:.1f}%'></i>"
        lines.append(f"<tr><td>{html.escape(name)}{cells}{bar}</tr>")
    return "".join([*lines, "</table>"])


def _plot(samples: dict[str, list[float]]) -> str:
    """Return each series of samples as an SVG (logarithmic: they span decades)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 4), layout="constrained")
    for name, values in samples.items():
        axis.plot(values, label=name, linewidth=1)
    axis.set_yscale("log")
    axis.set_xlabel("sample")
    axis.set_ylabel("ms")
    axis.legend(fontsize=7, ncols=3)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    pyplot.close(figure)
    return drawn.getvalue().partition("<!DOCTYPE")[2].partition(">")[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="a few samples: does it run?")
    parser.add_argument("--model", type=Path, help="RF-DETR export instead of the bundled model")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": machine(), "benchmarks": {}}
    for name in options.only:
        report["benchmarks"][name] = run(name, options)
        (options.out / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
        (options.out / "bench.html").write_text(page(report))
    print(f"{options.out / 'bench.html'} and bench.json")
    failed = [name for name, result in report["benchmarks"].items() if "failed" in result]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
