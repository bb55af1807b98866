"""Triton with the model on the GPU, measured by NVIDIA's perf_analyzer: no shared memory, system, CUDA.

    python benchmarks/gpu/perf.py [MODEL.onnx] [--seconds 4] [--json FILE]

The same as `benchmarks/triton.py --cuda`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rig import need_gpu

from common import argument_parser


def main() -> None:
    made = argument_parser(__doc__)
    made.add_argument("model", type=Path, nargs="?", help="default: the bundled model")
    made.add_argument("--seconds", type=float, default=4)
    options = made.parse_args()
    need_gpu()
    script = Path(__file__).resolve().parents[1] / "triton.py"
    words = [str(options.model)] if options.model else []
    out = ["--json", str(options.json)] if options.json else []
    line = [sys.executable, str(script), *words, "--cuda", "--seconds", str(options.seconds), *out]
    sys.exit(subprocess.run(line).returncode)


if __name__ == "__main__":
    main()
