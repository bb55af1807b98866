"""Check a node's folders before its processes start."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from tridetr.config import Config
from tridetr.controller.database import refuse_newer
from tridetr.controller.history import DATABASE, FOLDER_LOCK
from tridetr.disk_thread import DiskThread
from tridetr.errors import TridetrError
from tridetr.file_lock import holder_of
from tridetr.paths import TRITON_MARKS, UncheckedFolderError, refuse_other_folder, state_folder
from tridetr.recorder import evidence_files
from tridetr.write_check import disk_remedy

logger = logging.getLogger("tridetr.supervisor")

WAIT_S = 5.0  # longest wait for a disk


def check_disks(config: Config, only: Sequence[str]) -> None:
    """Refuse folders that cannot be used; call it when the orphans of an earlier run have ended.

    A disk that does not answer, or fails, is not refused: the processes wait for it.

    Args:
        config: The configuration.
        only: Names of the processes to run; empty = the whole node. Their folders may still be in use: in Kubernetes,
            by the pod that they replace.

    Raises:
        TridetrError: A folder cannot be used, or another node uses it.
    """
    state_dir, evidence_dir = config.state_dir.absolute(), config.evidence_dir
    if config.triton.url is None:
        refuse_other_folder(config.run_dir / "triton", TRITON_MARKS, "run_dir")

    def check_state() -> None:
        state_folder(state_dir)
        with contextlib.suppress(OSError):  # the controller reports it
            refuse_newer(state_dir / DATABASE)
        if not only:
            _refuse_used(state_dir / FOLDER_LOCK, "state_dir")

    if not only or {"controller", "recorder"} & set(only):
        _check(f"state_dir ({state_dir})", check_state)
    if not only and evidence_dir is not None:
        lock = evidence_dir / evidence_files.FOLDER_LOCK

        def check_evidence() -> None:
            with contextlib.suppress(OSError):  # the recorder reports it
                evidence_files.refuse_other_files(evidence_dir)
            _refuse_used(lock, "evidence.path")

        _check(f"evidence.path ({evidence_dir})", check_evidence)


def _check(folder: str, check: Callable[[], None]) -> None:
    disk = DiskThread("check")
    checking = disk.submit(check)
    disk.close()
    try:
        checking.result(WAIT_S)
    except UncheckedFolderError as error:
        logger.warning(
            "%s cannot be checked (%s): starting without it; %s",
            folder,
            error.strerror,
            disk_remedy(error),
        )
    except concurrent.futures.TimeoutError:
        logger.warning("the disk of %s does not answer: starting without it", folder)


def _refuse_used(lock: Path, key: str) -> None:
    # A real lock would be held while its note cannot be written: by a disk that does not answer
    try:
        holder = holder_of(lock)
    except OSError as error:
        logger.debug("%s cannot be checked: %s", lock, error)
        return
    if holder is not None:
        raise TridetrError(
            f"another node ({holder}) uses {key} {lock.parent}: stop it, or set another {key} in the configuration "
            "of this one"
        )
