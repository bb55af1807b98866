"""Look up every locked dependency in the advisory databases.

    python tools/audit.py constraints.txt [--strict]

Exits with 1 if a vulnerability is known. pip-audit also exits with 0 if it cannot reach a database; this script then
prints `NOT AUDITED`, and fails only with `--strict` (for a machine that should reach the databases).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SERVICES = ("pypi", "osv")


def ask(service: str, file: Path) -> list[dict[str, Any]]:
    """Return pip-audit's result for each dependency; empty if the service cannot be reached."""
    line = ["uvx", "pip-audit", "--requirement", str(file), "--no-deps", "--disable-pip"]
    line += ["--format", "json", "--progress-spinner", "off", "--vulnerability-service", service]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=300)
        return list(json.loads(done.stdout)["dependencies"])
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return []


def judge(answers: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Return the number of audited dependencies, and a line for each known vulnerability."""
    audited = [one for one in answers if "skip_reason" not in one]
    found = [
        f"{one['name']} {one['version']}: {known['id']}, fixed in {', '.join(known['fix_versions']) or 'no version'}"
        for one in audited
        for known in one["vulns"]
    ]
    return len(audited), found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--strict", action="store_true", help="fail if no database can be reached")
    options = parser.parse_args()
    locked = sum("==" in line for line in options.file.read_text(encoding="utf-8").splitlines())
    for service in SERVICES:
        audited, found = judge(ask(service, options.file))
        if audited:
            print("\n".join(found) if found else "no known vulnerabilities")
            print(f"{audited} of {locked} dependencies audited ({service})")
            sys.exit(1 if found else 0)
    print(
        f"NOT AUDITED: {' and '.join(SERVICES)} cannot be reached, or know none of the {locked} dependencies"
    )
    sys.exit(1 if options.strict else 0)


if __name__ == "__main__":
    main()
