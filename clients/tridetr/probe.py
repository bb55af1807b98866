"""``python -m tridetr.probe PROCESS``: exec probe of a container for liveness and readiness.

The probe reads heartbeat files and sends no requests. It imports nothing heavy, because it runs every few seconds. A
process is alive while its main loop renews its heartbeat and no camera's frames are stuck at it; the supervisor
checks the latter in the rings. Triton is ready while its watcher publishes an endpoint, which it removes when
inference fails.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tridetr.telemetry import heartbeat

ALIVE_S = 30.0  # the supervisor restarts a process after 10 s without progress; beyond this, it has failed itself


def fault(process: str, run_dir: Path, *, ready: bool, max_age_s: float = ALIVE_S) -> str | None:
    """Return why the process counts as dead or not ready; None if it is healthy.

    Args:
        process: name of the process as in ``tridetr up --only``, such as ``capture hall``.
        run_dir: the node's run folder.
        ready: check readiness as well as liveness.
        max_age_s: maximum age of a heartbeat in seconds.
    """
    pulse = heartbeat.read(run_dir, process)
    if pulse is None or (ready and pulse.starting):
        return f"{process} has not started"
    if pulse.age_s > max_age_s:
        return f"{process} has made no progress for {pulse.age_s:.0f} s"
    watching = heartbeat.read(run_dir, heartbeat.supervisor_of(process)) or heartbeat.read(
        run_dir, heartbeat.supervisor_of("")
    )
    if watching is not None and watching.age_s > max_age_s:
        return f"the supervisor of {process} has made no progress for {watching.age_s:.0f} s"
    progress = heartbeat.read(run_dir, heartbeat.progress_of(process))
    if watching is not None and progress is not None and progress.age_s > max_age_s:
        return f"a camera's frames have been stuck at {process} for {progress.age_s:.0f} s"
    if ready and process == "triton" and not (run_dir / "triton.json").exists():
        return "no inference has succeeded recently"
    return None


def main() -> None:
    """Exit with status 1 and print the reason if the process is dead or not ready."""
    parser = argparse.ArgumentParser(prog="python -m tridetr.probe", description=__doc__)
    parser.add_argument("process", help="such as `detector` or `capture hall`")
    parser.add_argument("--run-dir", type=Path, required=True, help="run_dir of the configuration")
    parser.add_argument("--ready", action="store_true", help="readiness instead of liveness")
    options = parser.parse_args()
    reason = fault(options.process, options.run_dir, ready=options.ready)
    if reason:
        sys.exit(reason)


if __name__ == "__main__":
    main()
