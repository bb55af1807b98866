"""Processes of an earlier run that outlived their supervisor.

The kernel sends SIGTERM to the children of a supervisor that was killed. One that is stopped, or hangs, does not heed
it, and would hold its rings' locks against the next run for ever.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import psutil

logger = logging.getLogger("tridetr.supervisor")

MARK = "TRIDETR_NODE"  # environment: the run folder; the server and its backends inherit it
GRACE_S = 3.0  # SIGTERM may be at work


def mark(run_dir: Path) -> str:
    """Return what tells the processes of this node from those of others."""
    return str(run_dir.resolve())


def find(run_dir: Path) -> list[psutil.Process]:
    """Return this node's processes; call it while none can have been started by a living supervisor."""
    wanted, user, found = mark(run_dir), os.geteuid(), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if user not in (0, process.uids().effective) or process.pid == os.getpid():
                continue
            if process.environ().get(MARK) == wanted:
                found.append(process)
    return found


def end(run_dir: Path) -> None:
    """Give them the time to leave by themselves, then kill them."""
    _, alive = psutil.wait_procs(find(run_dir), timeout=GRACE_S)
    for process in alive:
        logger.warning("process %d outlived its supervisor, killing it", process.pid)
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=GRACE_S)
