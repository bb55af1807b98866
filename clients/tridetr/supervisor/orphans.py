"""Processes that outlived the one that started them.

The kernel sends SIGTERM to the children of a supervisor that was killed. One that is stopped, or hangs, does not heed
it, and would hold its rings' locks against the next run for ever. And the process of Triton's Python backend outlives
a server that was killed. All inherit a mark in their environment, by which they are found.
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


def mark(run_dir: Path, name: str = "") -> str:
    """Return what tells the processes of this node (and of its process ``name``) from those of others."""
    return f"{run_dir.resolve()}\t{name}"


def find(run_dir: Path, name: str = "") -> list[psutil.Process]:
    """Return this node's processes, or those that its process ``name`` started; the caller is left out.

    Call it while none of them is meant to live.
    """
    wanted, user, found = mark(run_dir, name), os.geteuid(), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if user not in (0, process.uids().effective) or process.pid == os.getpid():
                continue
            found_mark = process.environ().get(MARK, "")
            if found_mark == wanted or (not name and found_mark.startswith(wanted)):
                found.append(process)
    return found


def end(run_dir: Path) -> None:
    """Give them the time to leave by themselves, then kill them."""
    _, alive = psutil.wait_procs(find(run_dir), timeout=GRACE_S)
    for process in alive:
        logger.warning("process %d outlived its supervisor, killing it", process.pid)
    _kill(alive)


def kill_children(run_dir: Path, name: str) -> None:
    """Kill what a dead process of this node left running."""
    _kill(find(run_dir, name))


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=GRACE_S)
