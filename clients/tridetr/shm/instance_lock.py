"""Allows only one node per instance, with lock files next to the segments, so regardless of the node's ``run_dir``.

A whole node (``tridetr up``) locks the instance exclusively. Processes that are started individually, such as the
containers of a pod, share that lock, and each locks its own process name exclusively.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from tridetr.errors import ShmError
from tridetr.file_lock import FileLock, FileLockedError
from tridetr.shm import names
from tridetr.shm.closing import Closing

_log = logging.getLogger("tridetr.shm")


def run_dir_of(note: str) -> Path | None:
    """Return the run folder in the note of an instance's lock; None if the note is incomplete.

    >>> run_dir_of("process 12 (the whole node; run_dir /run/tridetr-home)")
    PosixPath('/run/tridetr-home')
    """
    found = re.fullmatch(r"process \d+ \(.*?; run_dir (.+)\)", note, re.DOTALL)
    return Path(found[1]) if found else None


class InstanceLock(Closing):
    """The right to run an instance, or some of its processes; a context manager."""

    def __init__(self, instance: str, run_dir: Path, processes: Sequence[str] = ()) -> None:
        """Take the locks.

        Args:
            instance: Name of the instance.
            run_dir: The node's run folder, for the error message of processes that are refused.
            processes: Names of the processes, such as ``capture hall``; empty for the whole node.

        Raises:
            ShmError: Another node or process of this instance is running, or the lock files cannot be used.
        """
        self._instance = instance
        self._lost: str | None = None
        what = ", ".join(processes) or "the whole node"
        note = f"process {os.getpid()} ({what}; run_dir {run_dir})"
        with contextlib.ExitStack() as stack:
            self._locks = [
                stack.enter_context(self._take(path, note, shared=shared))
                for path, shared in self._files(processes)
            ]
            stack.pop_all()

    def _files(self, processes: Sequence[str]) -> list[tuple[Path, bool]]:
        stem = f"{names.PREFIX}-{self._instance}"
        files = [(names.SHM_DIR / f"{stem}.lock", bool(processes))]
        for process in processes:
            files.append((names.SHM_DIR / f"{stem}.{process.replace(' ', '.')}.lock", False))
        return files

    def _take(self, path: Path, note: str, *, shared: bool) -> FileLock:
        try:
            return FileLock(path, note, shared=shared, temporary=True)
        except FileLockedError as error:
            raise ShmError(self._refusal(error)) from None
        except OSError as error:
            raise ShmError(
                f"cannot take the lock {path} of instance {self._instance!r}: {error.strerror or error}. Run all "
                "of tridetr as one user, choose another `instance`, or remove the file if no node of it is running"
            ) from None

    def _refusal(self, error: FileLockedError) -> str:
        return (
            f"instance {self._instance!r} is already running: {error.holder or 'unknown process'}. Stop it, "
            "or set another `instance:` in this node's configuration"
        )

    def keep(self) -> None:
        """Take locks again if their files were removed; call it about once a second."""
        for lock in self._locks:
            try:
                if lock.keep():
                    _log.warning("%s was removed by another program; created it again", lock.path)
                self._lost = None
            except FileLockedError as error:
                self._log_lost(self._refusal(error))
            except OSError as error:
                self._log_lost(f"{lock.path} was removed and cannot be created again: {error}")

    def _log_lost(self, why: str) -> None:
        if why != self._lost:
            self._lost = why
            _log.error("%s", why)

    def close(self) -> None:
        """Release the locks and remove their files."""
        for lock in reversed(self._locks):
            lock.close()
