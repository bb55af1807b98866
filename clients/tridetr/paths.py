"""Folders: those of the installed package or a checkout, and those that a node writes to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from pathlib import Path

from tridetr.errors import ModelError, TridetrError
from tridetr.files import give_access_back
from tridetr.shm.closing import Closing

_PUBLIC = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))  # noqa: S108
_PACKAGE = Path(__file__).resolve().parent


def model_repository_dir() -> Path:
    """Return the model repository: inside the installed wheel, or at the root of a checkout.

    Raises:
        ModelError: neither is there (an incomplete installation).
    """
    candidates = (_PACKAGE / "_model_repository", _PACKAGE.parents[1] / "model_repository")
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise ModelError(
        f"the model repository is missing (looked for {' and '.join(map(str, candidates))}): "
        "install tridetr again"
    )


def default_run_dir(instance: str) -> Path:
    """Return where a node keeps the files of its run: where nothing is removed by age, if there is such a place."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    for base in (Path(runtime), Path("/run")):
        if os.access(base, os.W_OK | os.X_OK):
            return base / f"tridetr-{instance}"
    return Path(tempfile.gettempdir()) / f"tridetr-{os.geteuid()}-{instance}"


def private_folder(path: Path, key: str = "run_dir", *, may_be_read_only: bool = False) -> Path:
    """Make a folder that only this user may write to, or take one that is there.

    The run folder may be in the shared temporary folder, where anybody could make it first and then own what is
    written there: secrets, the configuration, the code of Triton's backends.

    Args:
        path: The folder.
        key: The configuration key that names it.
        may_be_read_only: Take it too where its file system is read-only, as that of a worn memory card becomes.

    Raises:
        TridetrError: It cannot be made or written to, or others could change what is in it.
    """
    remedy = f"set {key} to a folder of your own"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owners, found = {path.lstat().st_uid, path.stat().st_uid}, path.stat()
    except OSError as error:
        raise TridetrError(
            f"{key} {path} cannot be made: {error.strerror or error}; {remedy}"
        ) from None
    # Root may prepare it for us, as Kubernetes does; it needs no trick to read our files.
    if not owners <= {os.geteuid(), 0}:
        raise TridetrError(
            f"{key} {path} belongs to another user, who could read and replace what is written there: "
            f"remove it, or {remedy}"
        )
    # A volume of a container is open to all that run in it, which are ours.
    is_volume = path.is_mount() and path not in _PUBLIC
    if found.st_mode & stat.S_IWOTH and not is_volume:
        raise TridetrError(
            f"{key} {path} can be written to by everybody on this machine (mode {found.st_mode & 0o7777:o}): "
            f"run `chmod 700 {path}`, or {remedy}"
        )
    if may_be_read_only and os.statvfs(path).f_flag & os.ST_RDONLY:
        return path
    if not os.access(path, os.W_OK | os.X_OK) and not give_access_back(path):
        raise TridetrError(
            f"{key} {path} cannot be written to (a read-only file system?); {remedy}"
        )
    return path


class FolderGuard(Closing):
    """Keeps systemd-tmpfiles and the like from removing what is in a folder because it is old.

    They leave a folder alone that is locked (``flock``), with all that is below it, but look at the top one's files.
    """

    def __init__(self, path: Path) -> None:
        """Guard a folder and the folders in it."""
        self._path = path
        self._held: dict[Path, int] = {}
        self.renew()

    def renew(self) -> None:
        """Guard folders that were made meanwhile; call it from time to time."""
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
        """Guard no more."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()
