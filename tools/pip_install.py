"""Install Python packages with pip, and show what is downloaded and how long it takes.

VENV/bin/python tools/pip_install.py PIP-ARGUMENT…
"""

from __future__ import annotations

import re
import subprocess
import sys
import time

_FETCH = re.compile(
    r"\s*(Downloading|Using cached) (?:\S*/)?(\S+)\.(?:whl|tar\.gz) \(([\d.]+) (kB|MB|GB)\)"
)
_MB = {"kB": 1e-3, "MB": 1.0, "GB": 1e3}


def main() -> int:
    """Run pip; return its status. All of its output is shown if it fails."""
    command = [sys.executable, "-m", "pip", "install", "--progress-bar", "off", *sys.argv[1:]]
    started_s = time.monotonic()
    lines: list[str] = []
    fetched = cached = 0
    total_mb = 0.0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as pip:
        assert pip.stdout
        for line in pip.stdout:
            lines.append(line)
            if line.startswith("Installing collected packages"):
                print(f"  unpacking {line.count(',') + 1} packages …", flush=True)
            elif found := _FETCH.match(line):
                how, file, size, unit = found.groups()
                if how == "Using cached":
                    cached += 1
                    continue
                fetched += 1
                mb = float(size) * _MB[unit]
                total_mb += mb
                name = "-".join(file.split("-")[:2])
                print(f"  {fetched:3d}  {name}  {mb:.1f} MB", flush=True)
    if pip.returncode:
        sys.stdout.writelines(lines)
        return pip.returncode
    seconds = time.monotonic() - started_s
    print(
        f"  {fetched} packages downloaded ({total_mb:.0f} MB), {cached} from pip's cache, in {seconds:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
