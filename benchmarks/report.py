"""Run all benchmarks and write one self-contained HTML page and one JSON file (`make bench`).

    python benchmarks/report.py [--out build/bench] [--only ipc pipeline] [--quick] [--model EXPORT.onnx [--int8 FILE]]

Each benchmark is a separate process; one that fails is named in the report and does not stop the others. With a
model, those that use one run twice: with the bundled model and with that one.
"""

from __future__ import annotations

import argparse
import ast
import html
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plots
from common import machine
from compare import flatten
from table import Table, number
from tables import summary_of, tables_of

HERE = Path(__file__).parent
LONGEST_S = 900  # time limit of one benchmark


@dataclass(frozen=True)
class Benchmark:
    """Attributes: script, its words in a whole and in a quick run, whether it takes a model."""

    script: str
    whole: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    takes_model: bool = False


BENCHMARKS = {
    "ipc": Benchmark("ipc.py", quick=("--rounds", "400")),
    "ipc_others": Benchmark("ipc_others.py", quick=("--rounds", "60")),
    "decode": Benchmark("decode.py", quick=("--frames", "30")),
    "model": Benchmark("model.py", quick=("--runs", "5"), takes_model=True),
    "triton": Benchmark("triton.py", ("--seconds", "6"), ("--seconds", "3"), takes_model=True),
    "pipeline": Benchmark("pipeline.py", ("--frames", "60"), ("--frames", "10"), takes_model=True),
    "scaling": Benchmark("scaling.py", quick=("--seconds", "3", "--cameras", "1", "2", "--viewers", "1", "10")),
    "scaling, every frame": Benchmark(
        "scaling.py", ("--every-frame", "--viewers"),
        ("--every-frame", "--seconds", "3", "--cameras", "1", "--viewers"),
    ),
    "browser": Benchmark("browser.py", quick=("--seconds", "5")),
}  # fmt: skip
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430 }
h2 { margin-top: 3rem; border-top: 1px solid #8884; padding-top: 1rem } h3 { margin: 1.4rem 0 .3rem; font-size: 1rem }
pre, code { background: #8882; border-radius: 4px } code { padding: 0 .2rem }
pre { white-space: pre-wrap; padding: .7rem }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .5rem; text-align: right; vertical-align: top } tr:nth-child(even) { background: #8881 }
td:first-child, th:first-child, td.word { text-align: left } .bar { width: 28%; vertical-align: middle }
.bar i { display: block; height: .7rem; background: #3b6fb6; border-radius: 2px; min-width: 1px }
.failed { color: #c22 } .about { color: #667; font-size: .9rem; max-width: 52rem }
summary { cursor: pointer; margin: .8rem 0 }
svg { max-width: 100%; height: auto; background: #fff; border-radius: 6px }
@media (prefers-color-scheme: dark) { body { background: #12161c; color: #dde3ea } .about { color: #9aa5b1 }
  a { color: #7fb0ff } }
"""


def planned(options: argparse.Namespace) -> Iterator[tuple[str, Benchmark, list[str]]]:
    """Yield name, benchmark and words: those that take a model run with the bundled one and with the given one."""
    for name in options.only:
        benchmark = BENCHMARKS[name]
        words = list(benchmark.quick if options.quick else benchmark.whole)
        yield name, benchmark, words
        if benchmark.takes_model and options.model:
            int8 = ["--int8", str(options.int8)] if name == "model" and options.int8 else []
            yield f"{name}, given", benchmark, [*words, str(options.model), *int8]


def run(name: str, script: str, words: list[str], out: Path) -> dict[str, Any]:
    """Run one benchmark; return its figures, or the reason why there are none."""
    stem = name.replace(", ", "-").replace(" ", "-")
    file, said = out / f"{stem}.json", out / f"{stem}.log"
    file.unlink(missing_ok=True)
    command = shlex.join(["python", f"benchmarks/{script}", *words])
    print(f"{name}: {command}", flush=True)
    began = time.monotonic()
    result: dict[str, Any] = {}
    try:
        with said.open("w") as log:
            failed: object = subprocess.run(
                [sys.executable, str(HERE / script), *words, "--json", str(file)],
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=LONGEST_S,
            ).returncode
    except subprocess.TimeoutExpired:
        failed = f"not finished after {LONGEST_S} s"
    if file.exists():
        result = json.loads(file.read_text())
    if failed:
        lines = said.read_text().strip().splitlines()
        result["failed"] = "\n".join(lines[-5:]) or str(failed)
        print(f"  failed: {lines[-1] if lines else failed}", flush=True)
    result |= {"command": command, "took_s": round(time.monotonic() - began, 1)}
    return result


def page(report: dict[str, Any]) -> str:
    """Return the HTML page."""
    found = report["benchmarks"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>tridetr benchmarks</title><style>{STYLE}</style><h1>tridetr benchmarks</h1>",
        *(_table(table) for table in summary_of(report)),
        _machine(report["machine"]),
        "<p>", " · ".join(f"<a href='#{_anchor(name)}'>{html.escape(name)}</a>" for name in found), "</p>",
    ]  # fmt: skip
    for name, result in found.items():
        script = BENCHMARKS[name.removesuffix(", given")].script
        docstring = ast.get_docstring(ast.parse((HERE / script).read_text())) or ""
        title, _, rest = docstring.partition("\n")
        about = re.sub(r"^ {4}python .*$", "", rest, flags=re.MULTILINE).strip()
        parts += [
            f"<h2 id='{_anchor(name)}'>{html.escape(name)}</h2>",
            f"<p>{html.escape(title)}</p><p class=about>{_prose(about)}</p>",
            f"<p class=about><code>{html.escape(result['command'])}</code> took {result['took_s']:g} s</p>",
        ]
        if failed := result.get("failed"):
            parts.append(f"<pre class=failed>failed:\n{html.escape(failed)}</pre>")
            continue
        if drawn := result.get("samples"):
            parts.append(plots.samples(drawn))
        if "cameras" in result and "viewers" in result:
            parts.append(plots.scaling(result))
        parts += [_table(table) for table in tables_of(name, result)]
        rest_of = _every_figure(flatten(result))
        parts.append(f"<details><summary>every figure</summary>{rest_of}</details>")
    return "".join(parts)


def _anchor(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def _prose(text: str) -> str:
    """Escape, and show ``names`` of the docstring as code."""
    return re.sub(r"`+([^`]+)`+", r"<code>\1</code>", html.escape(text)).replace(
        "\n\n", "<p class=about>"
    )


def _machine(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    rows = [
        (key.replace("_", " "), str(value)) for key, value in facts.items() if key != "versions"
    ]
    lines = [
        f"<tr><td>{html.escape(key)}<td class=word>{html.escape(value)}</tr>"
        for key, value in [*rows, ("versions", versions)]
    ]
    return f"<details open><summary>The machine</summary><table>{''.join(lines)}</table></details>"


def _table(table: Table) -> str:
    """Return a table with bars next to the column that it draws."""
    bar = table.bar
    lines = [f"<h3>{html.escape(table.title)}</h3><table><tr>"]
    lines += [f"<th>{html.escape(word)}" for word in table.head]
    lines.append("<th class=bar></tr>" if bar is not None else "</tr>")
    top = max((float(row[bar] or 0) for row in table.rows), default=0.0) if bar is not None else 0.0
    for row in table.rows:
        cells = "".join(f"<td>{_cell(number(cell))}" for cell in row)
        if bar is not None:
            share = 100 * float(row[bar] or 0) / top if top > 0 else 0.0
            cells += f"<td class=bar><i style='width:{share:.1f}%'></i>"
        lines.append(f"<tr>{cells}</tr>")
    return "".join([*lines, "</table>"])


def _cell(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text))


def _every_figure(rows: dict[str, dict[str, float]]) -> str:
    lines = []
    for name, row in rows.items():
        cells = ", ".join(
            f"{key} {value:g}" if key != "value" else f"{value:g}" for key, value in row.items()
        )
        lines.append(f"<tr><td>{html.escape(name)}<td class=word>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument(
        "--quick", action="store_true", help="few samples, to check that everything runs"
    )
    parser.add_argument(
        "--model", type=Path, help="RF-DETR export, in addition to the bundled model"
    )
    parser.add_argument(
        "--int8", type=Path, help="the same model, made by `tridetr models quantize`"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": machine(), "benchmarks": {}}
    began = time.monotonic()
    for name, benchmark, words in planned(options):
        report["benchmarks"][name] = run(name, benchmark.script, words, options.out)
        report["machine"]["took_min"] = round((time.monotonic() - began) / 60, 1)
        (options.out / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
        (options.out / "bench.html").write_text(page(report))
    print(f"{options.out / 'bench.html'} and bench.json")
    failed = [name for name, result in report["benchmarks"].items() if "failed" in result]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
