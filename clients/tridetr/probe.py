"""``python -m tridetr.probe PROCESS``: the exec probe of a container, by progress and not by asking.

Imports nothing heavy: a probe runs every few seconds. A process is alive while its main loop renews its heartbeat and
no camera's frames get stuck at it, which its supervisor judges through the names of the rings. Triton is ready while
its watcher publishes an endpoint, which it takes back as soon as inference fails.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tridetr.telemetry import heartbeat

ALIVE_S = 30.0  # the supervisor replaces a process after 10 s without progress; later than that it needs help itself


def fault(process: str, run_dir: Path, *, ready: bool, max_age_s: float = ALIVE_S) -> str | None:
    """Return why the process counts as dead (or not ready), None if all is well.

    Args:
        process: name as in ``tridetr up --only``, such as ``capture hall``.
        run_dir: the node's run folder.
        ready: ask for readiness and not only for life.
        max_age_s: oldest heartbeat that counts.
    """
    pulse = heartbeat.read(run_dir, process)
    if pulse is None or (ready and pulse.starting):
        return f"{process} has not started"
    if pulse.age_s > max_age_s:
        return f"{process} shows no progress for {pulse.age_s:.0f} s"
    watching = heartbeat.read(run_dir, heartbeat.supervisor_of(process)) or heartbeat.read(
        run_dir, heartbeat.supervisor_of("")
    )
    if watching is not None and watching.age_s > max_age_s:
        return f"nobody would restart {process}: its supervisor stands still for {watching.age_s:.0f} s"
    progress = heartbeat.read(run_dir, heartbeat.progress_of(process))
    if watching is not None and progress is not None and progress.age_s > max_age_s:
        return f"a camera's frames have got no further than {process} for {progress.age_s:.0f} s"
    if ready and process == "triton" and not (run_dir / "triton.json").exists():
        return "no inference has succeeded lately"
    return None


def main() -> None:
    """Exit with 1 and a reason where the process is at fault."""
    parser = argparse.ArgumentParser(prog="python -m tridetr.probe", description=__doc__)
    parser.add_argument("process", help="such as `detector` or `capture hall`")
    parser.add_argument("--run-dir", type=Path, required=True, help="run_dir of the configuration")
    parser.add_argument("--ready", action="store_true", help="readiness instead of liveness")
    parser.add_argument(
        "--max-age", type=float, default=ALIVE_S, help="seconds (default: %(default)s)"
    )
    options = parser.parse_args()
    reason = fault(options.process, options.run_dir, ready=options.ready, max_age_s=options.max_age)
    if reason:
        sys.exit(reason)


if __name__ == "__main__":
    main()
