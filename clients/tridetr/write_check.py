"""Check whether files can be written to the run folder: nothing else reports a full or broken disk."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path

from tridetr.disk_thread import DiskStalledError, DiskThread

EVERY_S = 5.0
_BYTES = 16  # of a heartbeat
FULL_ERRORS = errno.ENOSPC, errno.EDQUOT
# The disk or the network share fails, whatever is configured: it may be back later
DEVICE_ERRORS = (
    errno.EIO,
    errno.EREMOTEIO,
    errno.ENXIO,
    errno.ENODEV,
    errno.ENOMEDIUM,
    errno.EUCLEAN,  # a damaged file system
    errno.EBADMSG,  # a wrong checksum in it
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ECONNABORTED,
    errno.ESHUTDOWN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
)


def check_writable(folder: Path) -> None:
    """Write a small temporary file, without a name, to a folder.

    A read-only file system need not be mounted so: ext4 refuses writes after an error, without a sign in the mount.

    Raises:
        OSError: It cannot be written.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, _BYTES)


def disk_remedy(error: Exception) -> str:
    """Return what to do about a disk that cannot be written."""
    code = getattr(error, "errno", None)
    if code in FULL_ERRORS:
        return "free some space there"
    if code == errno.EROFS:
        return "check the disk and the kernel's log (`dmesg`), and mount the file system writable again"
    if code in DEVICE_ERRORS:
        return "check the disk and the kernel's log (`dmesg`)"
    if isinstance(error, DiskStalledError):
        return "check the memory card, disk or network share"
    return "check the folder, its permissions and its disk"


def run_folder_fault(run_dir: Path, error: OSError) -> str:
    """Return the message of a run folder that cannot be written."""
    return (
        f"run_dir {run_dir} cannot be written ({error.strerror or error}): the processes run on, but those that start "
        f"are not watched; {disk_remedy(error)}"
    )


class WriteCheck:
    """Checks a run folder every few seconds, in a thread of its own.

    Attributes:
        fault: Why the folder cannot be written; empty = it can.
    """

    def __init__(self, run_dir: Path) -> None:
        self.fault = ""
        self._run_dir = run_dir
        self._disk = DiskThread("run folder")
        self._check: Future[None] | None = None
        self._asked_s = float("-inf")

    def look(self) -> None:
        """Take the result of the last check, and start the next one when it is due; call it about once a second."""
        now_s = time.monotonic()
        error: BaseException | None
        if self._check is not None:
            if self._check.done():
                error = self._check.exception()
                self._check = None
            elif now_s - self._asked_s > EVERY_S:
                error = DiskStalledError()
            else:
                return
            self.fault = ""
            # The supervisor creates a folder that was removed
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                self.fault = run_folder_fault(self._run_dir, error)
        if self._check is None and now_s - self._asked_s >= EVERY_S:
            self._asked_s = now_s
            self._check = self._disk.submit(lambda: check_writable(self._run_dir))

    def close(self) -> None:
        """End the thread."""
        self._disk.close()
