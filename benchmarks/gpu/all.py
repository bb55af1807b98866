"""Run all GPU benchmarks, the most important ones first, and write one JSON file.

    python benchmarks/gpu/all.py [MODEL.onnx] [--out build/bench-gpu/gpu.json] [--only check copies …]

Exits with status 3 and the reason if there is no GPU. A part that fails is named in the file with its output, and the
others continue; the status is then 1. See docs/gpu.md for what each part decides.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rig import need_gpu

# Name, script, its arguments, whether it needs the model. Each takes less than a minute on an H200.
PARTS: tuple[tuple[str, str, tuple[str, ...], bool], ...] = (
    ("check", "check", (), False),
    ("engine", "engine", (), True),
    ("live 8", "live", ("--cameras", "8"), True),
    ("live 1", "live", ("--cameras", "1"), True),
    ("live 4", "live", ("--cameras", "4"), True),
    ("regions", "regions", (), True),
    ("perf", "perf", (), True),
    ("kill_exporter", "kill_exporter", (), True),
    ("copies", "copies", (), False),
    ("contexts", "contexts", (), False),
    ("footage", "footage", (), True),
    ("sanitize", "sanitize", (), False),
)
LIMIT_S = 120


def run(script: str, words: list[str]) -> dict[str, Any]:
    """Run a part and return its report, or the reason why there is none."""
    file = Path(__file__).with_name(f"{script}.py")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        line = [sys.executable, str(file), *words, "--json", str(out)]
        try:
            done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            return {"failed": f"not finished within {LIMIT_S} s"}
        found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    if done.returncode:
        found["failed"] = f"status {done.returncode}: {done.stderr.strip()[-2000:]}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", type=Path, nargs="?", help="full-size export; default: the bundled model"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench-gpu/gpu.json"))
    names = [name for name, *_ in PARTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    need_gpu()
    results: dict[str, Any] = {}
    for name, script, words, takes_model in PARTS:
        if name in options.only:
            sys.stderr.write(f"{name} ...\n")
            model = [str(options.model)] if takes_model and options.model else []
            began = time.monotonic()
            results[name] = run(script, [*model, *words])
            results[name]["took_s"] = round(time.monotonic() - began, 1)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            found = {"benchmark": "gpu", "parts": results}  # partial, until all parts have run
            options.out.write_text(json.dumps(found, indent=2) + "\n")
    failed = [name for name, result in results.items() if "failed" in result]
    for name in failed:
        sys.stderr.write(f"{name}: {results[name]['failed']}\n")
    sys.stderr.write(f"written: {options.out}\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
