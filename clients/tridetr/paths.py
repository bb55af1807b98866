"""Locate the folders of tridetr: the shipped model repository, and the folders that a node writes to."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import stat
import tempfile
from collections.abc import Collection
from pathlib import Path

from tridetr.errors import ForeignFolderError, ModelError, TridetrError
from tridetr.files import give_access_back
from tridetr.shm.closing import Closing
from tridetr.write_check import DEVICE_ERRORS, FULL_ERRORS

# Folders in which every user can create files
PUBLIC = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))  # noqa: S108
# Environment, set by tridetr's images: nothing but the node's own containers sees their volumes
CONTAINER = "TRIDETR_CONTAINER"
# Files of the embedded Triton in its folder in the run folder: its lock, and the secret that is written at each start
TRITON_MARKS = ("lock", "secret")
# Has a file for each user whose services outlive the logins
_LINGER = Path("/var/lib/systemd/linger")
_PACKAGE = Path(__file__).resolve().parent


class UncheckedFolderError(OSError):
    """The disk of a folder fails, so it is unknown whether other users could change its content."""


def model_repository_dir() -> Path:
    """Return the model repository: inside the installed wheel, or at the root of a checkout.

    Raises:
        ModelError: neither exists (an incomplete installation).
    """
    candidates = (_PACKAGE / "_model_repository", _PACKAGE.parents[1] / "model_repository")
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise ModelError(
        f"the model repository is missing (looked for {' and '.join(map(str, candidates))}): "
        "reinstall tridetr"
    )


def default_run_dir(instance: str) -> Path:
    """Return the default run folder of a node, preferably below a folder whose old files are not cleaned up.

    logind removes `/run/user/UID` when the user logs out, also under a running node, unless the user lingers.
    """
    user = os.geteuid()
    of_login = Path(f"/run/user/{user}")
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or of_login)
    bases = [runtime] if runtime != of_login or _lingers(user) else []
    for base in (*bases, Path("/run")):
        if os.access(base, os.W_OK | os.X_OK):
            return base / f"tridetr-{instance}"
    return Path(tempfile.gettempdir()) / f"tridetr-{user}-{instance}"


def _lingers(user: int) -> bool:
    try:
        return (_LINGER / pwd.getpwuid(user).pw_name).exists()
    except KeyError:
        return False


def private_folder(path: Path, key: str = "run_dir", *, may_be_read_only: bool = False) -> Path:
    """Create a folder that only this user can write to, or check an existing one, and return it.

    The run folder may be in the shared temporary folder. Another user could create it there first and would then
    control its content: secrets, the configuration, the code of Triton's backends.

    Args:
        path: The folder.
        key: The configuration key that sets it, for the error messages.
        may_be_read_only: Accept a folder on a read-only file system (a worn memory card becomes read-only).

    Raises:
        ForeignFolderError: Other users could change its content, or replace it, or own a file in it.
        TridetrError: The folder cannot be created or written to.
    """
    try:
        return _private_folder(path, key, may_be_read_only)
    except OSError as error:
        raise _uncreatable(path, key, error) from None


def state_folder(path: Path) -> Path:
    """Create or check the state folder, like `private_folder`; it may be read-only.

    Raises:
        UncheckedFolderError: Its disk fails, which may pass. Nothing in it may be used until it was checked.
        ForeignFolderError: Other users could change its content, or replace it, or own a file in it.
        TridetrError: The folder cannot be created or written to.
    """
    try:
        return _private_folder(path, "state_dir", may_be_read_only=True)
    except OSError as error:
        if error.errno in DEVICE_ERRORS:
            raise UncheckedFolderError(error.errno, error.strerror, str(path)) from None
        raise _uncreatable(path, "state_dir", error) from None


def folder_on_any_disk(path: Path, key: str) -> Path:
    """Create or check a folder, like `private_folder`, whose disk may be full, read-only or failing.

    Raises:
        OSError: It is, which may pass. Nothing in the folder may be used until it was checked.
        ForeignFolderError: Other users could change its content, or replace it, or own a file in it.
        TridetrError: The folder cannot be created or written to for another reason.
    """
    try:
        return _private_folder(path, key, may_be_read_only=True)
    except OSError as error:
        if error.errno in (errno.EROFS, *FULL_ERRORS, *DEVICE_ERRORS):
            raise
        raise _uncreatable(path, key, error) from None


def _remedy(key: str) -> str:
    return f"set {key} to a folder of your own"


def _uncreatable(path: Path, key: str, error: OSError) -> TridetrError:
    return TridetrError(f"cannot create {key} {path}: {error.strerror or error}; {_remedy(key)}")


def _private_folder(path: Path, key: str, may_be_read_only: bool) -> Path:
    for above in reversed(path.absolute().parents):
        if not above.exists():
            above.mkdir(mode=0o755, exist_ok=True)  # whatever the umask
    path.mkdir(mode=0o700, exist_ok=True)
    refuse_other_users(path, key, _remedy(key))
    if may_be_read_only and os.statvfs(path).f_flag & os.ST_RDONLY:
        return path
    if not os.access(path, os.W_OK | os.X_OK) and not give_access_back(path):
        _raise_if_failed(path)
        raise TridetrError(
            f"{key} {path} is not writable (a read-only file system?); {_remedy(key)}"
        )
    return path


def refuse_other_users(path: Path, key: str, remedy: str) -> None:
    """Refuse a folder that is not this user's alone.

    Args:
        path: The folder.
        key: The configuration key that sets it, for the error message.
        remedy: What to do instead, for the error message.

    Raises:
        ForeignFolderError: Other users could change its content, or replace it, or own a file in it.
        OSError: It is missing, or cannot be read.
    """
    found, parent = path.stat(), path.parent.stat()
    # Root may own it, as in Kubernetes: root can read our files anyway.
    trusted = {os.geteuid(), 0}
    if not {path.lstat().st_uid, found.st_uid} <= trusted:
        raise ForeignFolderError(
            f"{key} {path} belongs to another user, who could read and replace the files in it: "
            f"remove it, or {remedy}"
        )
    # The volumes of a pod belong to root and are writable by its group or by all
    in_container = CONTAINER in os.environ
    if found.st_mode & stat.S_IWOTH and not (in_container and _is_volume(path)):
        raise ForeignFolderError(
            f"{key} {path} is writable by every user of this machine (mode {found.st_mode & 0o7777:o}): "
            f"run `chmod 700 {path}`, or {remedy}"
        )
    if found.st_mode & stat.S_IWGRP and not in_container and not _is_own_group(found.st_gid):
        raise ForeignFolderError(
            f"{key} {path} is writable by its group {found.st_gid} (mode {found.st_mode & 0o7777:o}): "
            f"run `chmod 700 {path}`, or {remedy}"
        )
    is_open = parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX
    # A mount point cannot be renamed or removed
    if is_open and not path.is_mount() and not (in_container and _is_volume(path.parent)):
        raise ForeignFolderError(
            f"{key} {path} can be replaced by every user of this machine, because {path.parent} is writable by all "
            f"(mode {parent.st_mode & 0o7777:o}): run `chmod o-w {path.parent}`, or {remedy}"
        )
    if not os.access(path, os.R_OK | os.X_OK):
        _raise_if_failed(path)
        return
    with os.scandir(path) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_uid not in trusted:
                    raise ForeignFolderError(  # left from a time when the folder was open to others
                        f"{entry.path} belongs to another user, who could change it: remove it, or {remedy}"
                    )


def _raise_if_failed(path: Path) -> None:
    """Distinguish a folder whose disk fails from one without permissions: ``access`` refuses both.

    Raises:
        OSError: It cannot be listed.
    """
    with contextlib.suppress(PermissionError):
        os.scandir(path).close()


def _is_volume(path: Path) -> bool:
    return path.is_mount() and path not in PUBLIC


def _is_own_group(number: int) -> bool:
    """Return whether a group is the one that many distributions create for each user, without further members."""
    try:
        group, user = grp.getgrgid(number), pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False
    return group.gr_name in (user, "root") and set(group.gr_mem) <= {user, "root"}


def refuse_other_folder(folder: Path, marks: Collection[str], key: str) -> None:
    """Refuse a folder that tridetr did not create, before files in it are replaced and removed.

    Args:
        folder: The folder; may be missing, or without files.
        marks: Names of files that tridetr creates in a folder of its own; a program that cleans old files may have left
            one of them only.
        key: The configuration key that sets it, for the error message.

    Raises:
        TridetrError: It holds files of the user or of another program.
    """
    if any(os.path.lexists(folder / mark) for mark in marks):
        return
    for path, _, files in os.walk(folder):
        if files:
            raise TridetrError(
                f"{folder} holds files of another program, such as {Path(path) / min(files)}. Remedy: set {key} to an "
                "empty folder or a new one"
            )


class FolderGuard(Closing):
    """Keeps systemd-tmpfiles and similar programs from removing old files in a folder.

    They skip a folder that is locked with ``flock``, and everything below it. A lock on the folder that a cleaning rule
    itself names does not protect that folder's own files.
    """

    def __init__(self, path: Path) -> None:
        """Lock a folder and its immediate subfolders."""
        self._path = path
        self._held: dict[Path, int] = {}
        self.renew()

    def renew(self) -> None:
        """Lock subfolders that were created since; call this periodically."""
        folders = [self._path]
        with contextlib.suppress(OSError):
            folders += [entry for entry in self._path.iterdir() if entry.is_dir()]
        for folder in folders:
            with contextlib.suppress(OSError):
                self._guard(folder)

    def _guard(self, folder: Path) -> None:
        held = self._held.get(folder)
        if held is not None:
            if os.path.samestat(os.fstat(held), folder.stat()):
                return
            os.close(self._held.pop(folder))
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._held[folder] = descriptor
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def close(self) -> None:
        """Release all locks."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()
