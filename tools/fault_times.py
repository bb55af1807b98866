"""Print the times that `make faults` measured, or write them into the tables of docs/reliability.md.

    python tools/fault_times.py build/faults.jsonl [--update docs/reliability.md]

Each line of the file is one measurement, as `tests/support/faults.py` records it. A figure of the document is followed
by a comment with its name: ``2.8<!--kill detect-->``. Exits with 1 if a figure was not measured, or a
measurement has no figure.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

NUMBER = re.compile(r"[\d.]+<!--([^>]+)-->")
CONDITIONS = re.compile(r"(<!--conditions-->)[^<]*(<!--end-->)")


def read(file: Path) -> list[dict[str, float | str]]:
    """Return the measurements, oldest first."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def longest(rows: list[dict[str, float | str]]) -> dict[str, str]:
    """Return the longest time of each fault [s], as text."""
    found: dict[str, float] = {}
    for row in rows:
        name = str(row["fault"])
        found[name] = max(found.get(name, 0.0), float(row["seconds"]))
    return {name: f"{seconds:.1f}" for name, seconds in found.items()}


def conditions(rows: list[dict[str, float | str]]) -> str:
    """Return a text about the load of the machine during the measurements."""
    loads = [float(row["load"]) for row in rows]
    slower = max(float(row["slowness"]) for row in rows)
    load = f"load average {min(loads):.1f} to {max(loads):.1f}"
    return f"{load}, the slowest start {slower:.1f} times that of a quiet machine"


def update(text: str, cells: Mapping[str, str], load: str) -> tuple[str, set[str]]:
    """Return the document with the new figures, and the names of all figures in it."""
    text = CONDITIONS.sub(rf"\g<1>{load}\g<2>", text)
    named = {match[1] for match in NUMBER.finditer(text)}
    for name in named & cells.keys():
        text = re.sub(rf"[\d.]+(?=<!--{re.escape(name)}-->)", cells[name], text)
    return text, named


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("times", type=Path)
    parser.add_argument("--update", type=Path)
    options = parser.parse_args()
    rows = read(options.times)
    cells, load = longest(rows), conditions(rows)
    if options.update is None:
        width = max(map(len, cells))
        print("\n".join([*(f"{name:{width}}  {text} s" for name, text in cells.items()), load]))
        return
    text, named = update(options.update.read_text(encoding="utf-8"), cells, load)
    options.update.write_text(text, encoding="utf-8")
    faults = [f"not measured: {name}" for name in sorted(named - cells.keys())]
    faults += [f"no figure in the document: {name}" for name in sorted(cells.keys() - named)]
    sys.exit("\n".join(faults) if faults else 0)


if __name__ == "__main__":
    main()
