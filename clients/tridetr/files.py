"""Atomic file writes, reading of UTF-8 text, and repair of file modes."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import select
import stat
from pathlib import Path

from tridetr.errors import ConfigError

_log = logging.getLogger("tridetr.files")

_LARGEST = 4 << 20  # of the text from a pipe or device
_PATIENCE_S = 5.0  # with them


def give_access_back(path: Path) -> bool:
    """Restore the owner's access to a file or folder of this user whose mode was changed by mistake.

    Returns:
        Whether the mode had to be changed and was.
    """
    try:
        found = path.lstat()
        is_folder = stat.S_ISDIR(found.st_mode)
        wanted = 0o700 if is_folder else 0o600
        if not (is_folder or stat.S_ISREG(found.st_mode)) or found.st_uid != os.geteuid():
            return False
        if found.st_mode & wanted == wanted:
            return False
        path.chmod(stat.S_IMODE(found.st_mode) | wanted)
    except OSError:
        return False
    mode = stat.S_IMODE(found.st_mode)
    _log.warning(
        "%s had mode %03o, which denied tridetr access: the owner's permissions were restored",
        path,
        mode,
    )
    return True


def give_tree_back(folder: Path) -> None:
    """Restore the owner's access to a folder, and to everything in it that the owner cannot read.

    Files that are only read-only stay as they are: that may be intended. Symbolic links are not followed, not even to
    see what they lead to, as `os.walk` does: that may be on a network share that does not answer.
    """
    give_access_back(folder)
    unread = [folder]
    while unread:
        with contextlib.suppress(OSError):
            for path in unread.pop().iterdir():
                with contextlib.suppress(OSError):
                    mode = path.lstat().st_mode
                    if not mode & stat.S_IRUSR:
                        give_access_back(path)
                    if stat.S_ISDIR(mode):
                        unread.append(path)


def write_text(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace a file's content with this text (UTF-8); see :func:`write_bytes`."""
    write_bytes(path, text.encode(), mode=mode)


def write_bytes(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file's content atomically: readers see the old file or the new one, never a part.

    For one writer at a time. The next write removes the temporary file of a writer that was killed.

    Args:
        path: The file; its folder must exist.
        data: The bytes.
        mode: Permissions of the new file.

    Raises:
        OSError: The file cannot be written; the old one stays.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def sync_folder(path: Path) -> None:
    """Sync a folder's names to disk, so that renames in it survive a power cut.

    Raises:
        OSError: it cannot be synced.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum_of(path: Path, algorithm: str = "sha256") -> str:
    """Return the hex digest of a file, read in parts.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _read(path: Path) -> bytes:
    """Return a file's content; it may be a pipe, but its other end must write soon.

    Raises:
        OSError: It cannot be read, is endless, or nothing is written to the pipe.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # a FIFO without a writer

    with open(path, "rb", 0, opener=opener) as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file.read()
        ready = select.poll()
        ready.register(file, select.POLLIN)
        data = bytearray()
        while True:
            # A FIFO without a writer reads as empty
            if not ready.poll(_PATIENCE_S * 1000):
                raise OSError(f"nothing was written to it within {_PATIENCE_S:g} s")
            if not (part := file.read(1 << 16)):
                return bytes(data)
            data += part
            if len(data) > _LARGEST:
                raise OSError(f"it has more than {_LARGEST >> 20} MiB")


def read_text(path: Path, *, shown: str = "") -> str:
    """Return a UTF-8 file's text without its byte-order mark.

    Args:
        path: The file.
        shown: What messages call it; empty = its path.

    Raises:
        ConfigError: the file cannot be read, or it is not UTF-8.
    """
    shown = shown or str(path)
    try:
        data = _read(path)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise ConfigError(f"{shown} cannot be read: {cause}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "another encoding"
        raise ConfigError(
            f"{shown}, line {line}: not UTF-8 but {found}; save the file as UTF-8"
        ) from None
