"""Run the frame ring, the kernel and the decoders under compute-sanitizer.

    python benchmarks/gpu/sanitize.py [--tool memcheck racecheck initcheck synccheck] [--json FILE]

compute-sanitizer comes with the CUDA toolkit (Debian: nvidia-cuda-toolkit; NVIDIA: cuda-sanitizer). By hand:

    compute-sanitizer --tool memcheck --report-api-errors no --target-processes all --error-exitcode 9 \\
        python benchmarks/gpu/check.py --only ring kernel

The decoders' libraries are not checked; add `jpeg video` to `--only` to check the calls to them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from rig import need_gpu, report

from common import argument_parser

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
FOUND = 9  # exit status of the sanitizer when it found something
CHECK = Path(__file__).with_name("check.py")


def command(sanitizer: str, tool: str) -> list[str]:
    """Return the command line for one tool."""
    return [
        sanitizer, "--tool", tool, "--target-processes", "all", "--error-exitcode", str(FOUND),
        "--report-api-errors", "no",  # cuda-bindings looks up functions that do not exist
        sys.executable, str(CHECK), "--only", "ring", "kernel",
    ]  # fmt: skip


def main() -> None:
    made = argument_parser(__doc__)
    made.add_argument("--tool", nargs="+", choices=TOOLS, default=["memcheck"])
    options = made.parse_args()
    need_gpu()
    sanitizer = shutil.which("compute-sanitizer", path=None) or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    figures: dict[str, Any] = {}
    for tool in options.tool:
        if sanitizer is None:
            figures[tool] = {"not_run": "compute-sanitizer is not installed (CUDA toolkit)"}
            continue
        line = command(sanitizer, tool)
        done = subprocess.run(line, capture_output=True, text=True, timeout=900)
        lines = [text for text in done.stdout.splitlines() if text.startswith("=========")]
        figures[tool] = {"ok": done.returncode == 0, "exit": done.returncode, "said": lines[-20:]}
    report("sanitize", options, figures)
    sys.exit(any(figure.get("exit") for figure in figures.values()))


if __name__ == "__main__":
    main()
