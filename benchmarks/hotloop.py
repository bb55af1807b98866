"""Where a running node spends its time: py-spy in detector, capture, gateway and controller.

    python benchmarks/hotloop.py [--seconds 15 --rate 250 --out build/profile]

A real node plays one 1080p30 H.264 file in real time, every frame goes to the model, and one viewer watches. py-spy
looks at each process from outside; samples of waiting threads are ignored; time in C code (decoding, numpy,
sockets) counts for the Python function that called it. Writes one flame graph for each process (SVG), and
``profile.md`` and ``profile.json`` with the functions by their own share of the samples.
Attaching to a process needs root or the same user with ptrace allowed (``kernel.yama.ptrace_scope=0``).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from clips import join
from common import machine, roles, wait_for
from decode import write_clip
from scaling import H264, cpu_of, newest, rates, running, watch
from tridetr.shm.detections import DetectionReader

ROLES = {"capture": "capture cam0", "detector": "detect", "gateway": "serve", "controller": "control"}  # fmt: skip
PY_SPY = str(Path(sys.executable).with_name("py-spy"))
TOP = 12
# Functions in which threads wait: py-spy cannot always distinguish waiting from work in C (containers, some kernels)
WAITS = (
    "Condition.wait ",
    "EpollSelector.select ",
    "_worker (concurrent",
    "Thread.run ",
    "Client._loop (paho",
)


def record(
    processes: dict[str, psutil.Process], form: str, end: str, options: argparse.Namespace
) -> dict[str, Path]:
    """Sample all processes at the same time with py-spy; return its files."""
    files = {name: options.out / f"{name}.{end}" for name in processes}
    children = []
    for name, process in processes.items():
        line = [PY_SPY, "record", "--pid", str(process.pid), "--format", form, "--output", str(files[name]),
                "--duration", str(options.seconds), "--rate", str(options.rate)]  # fmt: skip
        children.append(subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    for child in children:
        said, _ = child.communicate(timeout=options.seconds * 4 + 60)
        if child.returncode:
            raise SystemExit(f"py-spy failed: {said.decode()[-500:]}")
    return files


def own_shares(folded: str) -> list[tuple[str, float]]:
    """Return functions by their own share of the working samples, from py-spy's folded stacks.

    >>> own_shares("a (x.py:1);b (y.py:2) 3\\na (x.py:5) 1\\nCondition.wait (threading.py:1) 9")
    [('b (y.py)', 0.75), ('a (x.py)', 0.25)]
    """
    counts: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, number = line.rpartition(" ")
        function = re.sub(r":\d+\)$", ")", stack.rpartition(";")[2])
        if not function.startswith(WAITS):
            counts[function] += int(number)
    total = sum(counts.values()) or 1
    return [(name, round(count / total, 4)) for name, count in counts.most_common()]


async def watched(port: int, seconds: float, work: Any) -> Any:
    """Run work in a thread while one viewer watches."""
    counts = [0]
    viewer = asyncio.create_task(watch(port, counts, 0))
    try:
        while not counts[0]:
            if viewer.done():
                viewer.result()
            await asyncio.sleep(0.1)
        return await asyncio.to_thread(work)
    finally:
        viewer.cancel()
        await asyncio.gather(viewer, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--rate", type=int, default=250, help="samples a second")
    parser.add_argument("--out", type=Path, default=Path("build/profile"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        clip, short = Path(folder) / "clip.mp4", Path(folder) / "short.mp4"
        write_clip(short, *H264, (1920, 1080))
        join([short] * 60, clip)
        with (
            running(clip, 1, standby_fps=60.0) as (process, config, log),
            DetectionReader(config["instance"], "cam0", None) as reader,
        ):
            wait_for(lambda: newest([reader]), process, log)
            found = roles(process)
            processes = {name: found[role] for name, role in ROLES.items() if role in found}

            def work() -> tuple[dict[str, float], float, dict[str, Path]]:
                before, had, at = cpu_of(found), newest([reader]), time.monotonic()
                time.sleep(options.seconds)  # undisturbed by py-spy
                took = time.monotonic() - at
                cpu = rates(before, cpu_of(found), took)
                fps = (newest([reader]) - had) / took
                files = record(processes, "raw", "folded", options)
                record(processes, "flamegraph", "svg", options)
                return cpu, fps, files

            port = config["gateway"]["port"]
            cpu, fps, files = asyncio.run(watched(port, options.seconds, work))
    shares = {name: own_shares(file.read_text())[:TOP] for name, file in files.items()}
    lines = [f"{fps:.1f} results a second."]
    for name, rows in shares.items():
        share = cpu.get(ROLES[name].split()[0], 0.0)
        lines += [
            "",
            f"{name}: {share:.0f} % of one core",
            "",
            "| own share | function |",
            "|---|---|",
        ]
        lines += [f"| {own:.1%} | `{function}` |" for function, own in rows]
    (options.out / "profile.md").write_text("\n".join(lines) + "\n")
    with contextlib.suppress(FileNotFoundError):
        (options.out / "profile.json").unlink()
    result = {"benchmark": "hotloop", "machine": machine(), "results_per_second": round(fps, 1),
              "cpu_percent": cpu, "own_shares": shares}  # fmt: skip
    (options.out / "profile.json").write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(lines))
    print(f"\n{options.out}: " + ", ".join(f"{name}.svg" for name in shares))


if __name__ == "__main__":
    main()
