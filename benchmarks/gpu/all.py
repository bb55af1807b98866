"""Everything that is to be measured on a GPU, in the order in which it tells most, into one JSON file.

    python benchmarks/gpu/all.py [MODEL.onnx] [--out build/bench-gpu/gpu.json] [--only check copies …]

Ends at once with status 3 and the reason where there is no GPU. A part that fails is named in the file with what it
said, and the others go on; the status is 1 then. See docs/gpu.md for what each part decides.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rig import need_gpu

# Name, whether it takes the model, and how long it may take [s].
PARTS = (
    ("check", False, 120),
    ("engine", True, 180),
    ("live", True, 300),
    ("regions", True, 120),
    ("perf", True, 120),
    ("kill_exporter", True, 120),
    ("copies", False, 60),
    ("contexts", False, 60),
    ("footage", True, 120),
    ("sanitize", False, 180),
)


def run(name: str, words: list[str], timeout_s: int) -> dict[str, Any]:
    """Run a part and return its report, or why there is none."""
    script = Path(__file__).with_name(f"{name}.py")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        line = [sys.executable, str(script), *words, "--json", str(out)]
        try:
            done = subprocess.run(line, capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return {"failed": f"not finished within {timeout_s} s"}
        found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    if done.returncode:
        found["failed"] = f"status {done.returncode}: {done.stderr.strip()[-2000:]}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", help="a full-size export; default: bundled")
    parser.add_argument("--out", type=Path, default=Path("build/bench-gpu/gpu.json"))
    names = [name for name, _, _ in PARTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    need_gpu()
    results: dict[str, Any] = {}
    for name, takes_model, timeout_s in PARTS:
        if name in options.only:
            sys.stderr.write(f"{name} ...\n")
            words = [str(options.model)] if takes_model and options.model else []
            results[name] = run(name, words, timeout_s)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(results, indent=2) + "\n")  # as far as it got
    failed = [name for name, result in results.items() if "failed" in result]
    for name in failed:
        sys.stderr.write(f"{name}: {results[name]['failed']}\n")
    sys.stderr.write(f"written: {options.out}\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
