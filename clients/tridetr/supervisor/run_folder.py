"""Own a node's run folder: locks, leftovers of earlier runs, access rights; and the configuration of the processes."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tridetr.config import Config
from tridetr.controller.history import FOLDER_LOCK
from tridetr.errors import ForeignFolderError, TridetrError
from tridetr.file_lock import FileLock, FileLockedError
from tridetr.files import give_tree_back
from tridetr.paths import FolderGuard, private_folder
from tridetr.shm.closing import Closing
from tridetr.shm.instance_lock import InstanceLock
from tridetr.shm.names import unlink_instance
from tridetr.supervisor import orphans
from tridetr.telemetry import heartbeat
from tridetr.telemetry.process_files import is_samples, use_process_files
from tridetr.write_check import check_writable, run_folder_fault

logger = logging.getLogger("tridetr.supervisor")

DEMO_STATE = "demo-state"  # state folder of the demo, in the run folder: deleted with each run
# How often the whole run folder is checked: access rights, and whether it can be written
_WALK_S = 5.0


class RunFolder(Closing):
    """The run folder and the instance, locked for one run.

    Attributes:
        config_fd: Descriptor of the configuration, which the processes inherit. The other containers of a pod could
            change a file in the run folder, and have a process send its passwords elsewhere.
    """

    def __init__(self, config: Config, only: Sequence[str]) -> None:
        """Lock the instance and the run folder.

        Args:
            config: The validated configuration.
            only: Names of the processes to run; empty = the whole node.

        Raises:
            TridetrError: Another run uses the same instance or run folder.
        """
        self._config = config
        self._only = only
        self._path = config.run_dir
        self._next_walk_s = 0.0
        self._is_writable = True
        with contextlib.ExitStack() as stack:
            self._instance = stack.enter_context(InstanceLock(config.instance, self._path, only))
            self._run = stack.enter_context(_sole_run(self._path, "+".join(only) or "node"))
            self._guard = stack.enter_context(FolderGuard(self._path))
            self.config_fd = _sealed(config.model_dump_json())
            stack.callback(os.close, self.config_fd)
            self._locks = stack.pop_all()

    def prepare(self) -> None:
        """Remove what an earlier run left behind, and set up this process's metric files."""
        if not self._only:
            orphans.end(self._path.resolve())
            self.clean()
        role = "supervisor_" + "_".join(self._only).replace(" ", "_")
        use_process_files(self._path / "metrics", role)

    @property
    def config_file(self) -> Path:
        """Path of the configuration in processes that inherit `config_fd`."""
        return Path(f"/proc/self/fd/{self.config_fd}")

    def recreate(self) -> None:
        """Create the run folder again if it was removed.

        Raises:
            TridetrError: It cannot be created or used.
        """
        private_folder(self._path)

    def keep(self) -> None:
        """Keep locks and folders, and recreate those that were removed; call it about once a second.

        Raises:
            ForeignFolderError: The run folder was removed, and another user has taken its name.
        """
        self._instance.keep()
        try:
            private_folder(self._path)
            self._run.keep()
            self._guard.renew()
        except ForeignFolderError:
            if {self._path.lstat().st_uid, self._path.stat().st_uid} != {os.geteuid()}:
                raise
            self._path.chmod(0o700)  # it was opened to all users
        except (OSError, TridetrError) as error:
            logger.debug("the run folder cannot be kept: %s", error)
        if (now_s := time.monotonic()) >= self._next_walk_s:
            self._next_walk_s = now_s + _WALK_S
            give_tree_back(self._path)
            self._look_whether_writable()

    def _look_whether_writable(self) -> None:
        try:
            check_writable(self._path)
        except OSError as error:
            if self._is_writable:
                logger.error("%s", run_folder_fault(self._path, error))
            self._is_writable = False
        else:
            if not self._is_writable:
                logger.info("run_dir %s can be written again", self._path)
            self._is_writable = True

    def clean(self) -> None:
        """Remove the instance's segments and queues, and the files that do not outlive a run."""
        unlink_instance(self._config.instance, self._config.cameras)
        # The run folder may be one with files of the user's
        _remove_own(self._path / "metrics", lambda file: is_samples(file.name))
        _remove_own(self._path / "heartbeats", heartbeat.is_heartbeat)
        demo = self._path / DEMO_STATE
        if (demo / FOLDER_LOCK).is_file():
            shutil.rmtree(demo, ignore_errors=True)
        else:
            _remove_own(demo, lambda _: False)

    def close(self) -> None:
        """Release the locks."""
        self._locks.close()


def _remove_own(folder: Path, is_own: Callable[[Path], bool]) -> None:
    """Remove the files in a folder that tridetr created, then the folder if it is empty."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for file in list(folder.iterdir()):
        with contextlib.suppress(OSError):
            if file.is_file() and not file.is_symlink() and is_own(file):
                file.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _sealed(text: str) -> int:
    """Return a descriptor of a file in memory with a text that cannot be changed."""
    descriptor = os.memfd_create("tridetr config", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
        file.write(text)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def _sole_run(run_dir: Path, name: str) -> FileLock:
    """Lock the run folder: two instances may be configured with the same one.

    Raises:
        TridetrError: Another run holds the lock.
    """
    path = run_dir / f"lock-{name.replace(' ', '-')}"
    try:
        return FileLock(path, f"process {os.getpid()}")
    except FileLockedError as error:
        raise TridetrError(
            f"another `tridetr up` ({error.holder}) uses run_dir {run_dir}: stop it, or set another run_dir in "
            "the configuration of this one"
        ) from None
