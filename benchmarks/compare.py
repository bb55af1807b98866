"""Compare two reports of `make bench`: every figure that both have, and the change.

    python benchmarks/compare.py A.json B.json [--threshold 0.1]

Figures are comparable only if machine and load are the same; ratios carry over better than times. Differences between
the machines are printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

SKIPPED = ("machine", "samples", "frame", "frames", "runs", "size", "took_s", "failed", "threads")


def flatten(result: dict[str, Any], prefix: str = "") -> dict[str, dict[str, float]]:
    """Return all figures of a benchmark by their path.

    A figure is a dictionary with a median, or a bare number (then under ``value``).
    """
    found: dict[str, dict[str, float]] = {}
    for name, value in result.items():
        path = f"{prefix} › {name}" if prefix else name
        if name in SKIPPED:
            continue
        if isinstance(value, dict):
            if "p50" in value:
                found[path] = {key: v for key, v in value.items() if isinstance(v, (int, float))}
            else:
                found |= flatten(value, path)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[path] = {"value": float(value)}
    return found


def figures(report: dict[str, Any]) -> dict[str, float]:
    """Return the median (or the value) of each figure of a report."""
    rows: dict[str, float] = {}
    for name, result in report["benchmarks"].items():
        for path, row in flatten(result).items():
            short = path.removeprefix("figures › ").removeprefix("results › ")
            rows[f"{name}: {short}"] = row.get("p50", row.get("value", 0.0))
    return rows


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return the differences between the two machines."""
    one, other = a["machine"], b["machine"]
    return [
        f"{key}: {one.get(key)} | {other.get(key)}"
        for key in ("cpu", "cores", "kernel", "python", "scheduling", "load_average", "versions")
        if one.get(key) != other.get(key)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.1,
        help="mark figures that changed by more than this share",
    )
    options = parser.parse_args()
    for path in (options.a, options.b):
        if not path.is_file():
            parser.error(f"{path} is not there: `make bench` writes build/bench/bench.json")
    a, b = (json.loads(path.read_text()) for path in (options.a, options.b))
    for line in differences(a, b):
        print(f"differs: {line}")
    before, after = figures(a), figures(b)
    print(f"{'':72} {'A':>11} {'B':>11} {'B/A':>7}")
    for name in before:
        if name not in after:
            print(f"{name[:72]:72} {before[name]:11.4g} {'-':>11}")
            continue
        ratio = after[name] / before[name] if before[name] else float("nan")
        mark = " *" if abs(ratio - 1) > options.threshold else ""
        print(f"{name[:72]:72} {before[name]:11.4g} {after[name]:11.4g} {ratio:7.3f}{mark}")
    for name in after.keys() - before.keys():
        print(f"{name[:72]:72} {'-':>11} {after[name]:11.4g}")


if __name__ == "__main__":
    main()
