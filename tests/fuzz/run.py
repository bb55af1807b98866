"""Fuzzes one target for some seconds with inputs that grow by coverage (atheris), or each in turn.

    python tests/fuzz/run.py [TARGET ...] --seconds 60

An input that breaks a target is written to `tests/fuzz/corpus/<target>/`, where each test run tries it from then on;
the interesting ones are kept in `build/fuzz/<target>/` and are where the next run begins. Leaves with 1 after a find.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = HERE.parents[1] / "build" / "fuzz"


def fuzz(name: str, seconds: int) -> None:
    """Fuzz in this process; atheris ends it."""
    import atheris

    with atheris.instrument_imports(include=["tridetr"]):
        from fuzz import targets

    kept = KEPT / name
    kept.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(targets.seeds()[name]):
        (kept / f"seed{number}").write_bytes(data)
    found = HERE / "corpus" / name
    found.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048"]
    folders = [str(kept), str(found)]
    atheris.Setup(
        [sys.argv[0], *options, f"-artifact_prefix={found}/", *folders], targets.TARGETS[name]
    )
    atheris.Fuzz()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))
    if options.here:
        fuzz(options.targets[0], options.seconds)
        return
    from fuzz.targets import TARGETS

    broken = []
    for name in options.targets or TARGETS:
        line = [sys.executable, __file__, name, "--seconds", str(options.seconds), "--here"]
        done = subprocess.run(line, capture_output=True, text=True, errors="replace")
        last = [text for text in done.stderr.splitlines() if text.strip()]
        print(f"{name}: {last[-1] if last else 'no output'}", flush=True)
        if done.returncode:
            broken.append(name)
            print("\n".join(last[-40:]))
    sys.exit(f"broken: {', '.join(broken)}" if broken else 0)


if __name__ == "__main__":
    main()
