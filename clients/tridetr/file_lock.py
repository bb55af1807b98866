"""File locks (``flock``), which the kernel releases when their holder exits."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from tridetr.errors import TridetrError
from tridetr.files import give_access_back
from tridetr.shm.closing import Closing

_NOTE_BYTES = 500


class FileLockedError(TridetrError):
    """Another process holds the lock.

    Attributes:
        holder: The note of the lock's holder; may be empty.
    """

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is locked by {holder or 'another process'}")
        self.holder = holder


def holder_of(path: Path) -> str | None:
    """Return the note of the lock's holder; None if no process holds it. Writes nothing.

    Raises:
        OSError: The file cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _note(descriptor) or "another process"
    finally:
        os.close(descriptor)
    return None


def _note(descriptor: int) -> str:
    return os.pread(descriptor, _NOTE_BYTES, 0).decode(errors="replace").strip()


class FileLock(Closing):
    """An exclusive or shared ``flock`` on a dedicated file; a context manager. Never blocks.

    Attributes:
        note: The note in the file.
    """

    def __init__(
        self, path: Path, note: str | None = "", *, shared: bool = False, temporary: bool = False
    ) -> None:
        """Acquire the lock; create the file if it does not exist.

        Args:
            path: The file.
            note: Describes the holder in the error that other processes get; None = keep the last holder's.
            shared: Acquire a shared lock, which other shared holders do not block.
            temporary: Remove the file when its last holder releases the lock.

        Raises:
            FileLockedError: Another process holds the lock.
            OSError: The file cannot be created, or belongs to another user.
        """
        self.path = path
        self.note = note
        self._shared = shared
        self._temporary = temporary
        self._descriptor = self._take()

    def _take(self) -> int:
        kind = fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                descriptor = os.open(self.path, flags, 0o600)
            except PermissionError:
                if not give_access_back(self.path):
                    raise
                continue
            try:
                if os.fstat(descriptor).st_uid not in (os.geteuid(), 0):
                    raise PermissionError(f"{self.path} belongs to another user")
                try:
                    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise FileLockedError(self.path, _note(descriptor)) from None
                if not self._leads_to(descriptor):
                    os.close(descriptor)  # its last holder has just removed the file
                    continue
                if self.note is None:
                    self.note = _note(descriptor)
                # On a full disk, the lock is valid without its note
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, self.note.encode()[:_NOTE_BYTES], 0)
            except BaseException:
                os.close(descriptor)
                raise
            return descriptor

    def _leads_to(self, descriptor: int) -> bool:
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(descriptor))

    def keep(self) -> bool:
        """Acquire the lock again if its file was removed; costs two system calls if it was not.

        Returns:
            Whether the file had been removed.

        Raises:
            FileLockedError: Another process holds the lock by now; this one still holds the removed file.
            OSError: The file cannot be created.
        """
        if self._leads_to(self._descriptor):
            return False
        fresh = self._take()
        os.close(self._descriptor)
        self._descriptor = fresh
        return True

    def close(self) -> None:
        """Release the lock; further calls do nothing."""
        if self._descriptor < 0:
            return
        try:
            if self._temporary and self._leads_to(self._descriptor):
                try:
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return  # others share it
                self.path.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)
            self._descriptor = -1
