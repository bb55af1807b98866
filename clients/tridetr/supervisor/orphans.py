"""Find and end processes that outlived their parent.

If the supervisor is killed, the kernel sends SIGTERM to its children. A child that is stopped or hangs does not react,
and would keep the next run from its rings indefinitely, because it holds their locks. The process of Triton's Python
backend also outlives a server that is killed. All of them inherit a mark in their environment, by which they are found.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import psutil

logger = logging.getLogger("tridetr.supervisor")

MARK = "TRIDETR_NODE"  # environment: the run folder; the server and its backends inherit it
GRACE_S = 3.0  # for processes that are already handling SIGTERM
_DEATH_S = 0.1  # for processes that were killed: others are not watched meanwhile


def mark(run_dir: Path, name: str = "") -> str:
    """Return the mark of this node's processes, or of those that its process ``name`` started.

    Args:
        run_dir: The resolved run folder. Links are not followed here: once the folder is gone, another user may put one
            in its place, which leads to another node.
        name: The name of a process; empty = all.
    """
    return f"{run_dir}\t{name}"


def find(run_dir: Path, name: str = "") -> list[psutil.Process]:
    """Return this node's processes, or those that its process ``name`` started, without the calling process.

    Call it only while none of them should be running. See `mark` for the arguments.

    Raises:
        OSError: The processes cannot be listed, for example because no descriptor is left.
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
    """Wait up to ``GRACE_S`` for the node's processes to exit, then kill the rest."""
    _, alive = psutil.wait_procs(find(run_dir), timeout=GRACE_S)
    for process in alive:
        logger.warning("process %d outlived its supervisor; killing it", process.pid)
    _kill(alive, GRACE_S)


def kill_children(run_dir: Path, name: str) -> None:
    """Kill the processes that a dead process of this node left running.

    Raises:
        OSError: The processes cannot be listed, for example because no descriptor is left.
    """
    _kill(find(run_dir, name), _DEATH_S)


def _kill(processes: list[psutil.Process], wait_s: float) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=wait_s)
