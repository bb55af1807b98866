"""Files that are written whole or not at all, and text that people wrote: UTF-8, or a clear error."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from pathlib import Path

from tridetr.errors import ConfigError

_log = logging.getLogger("tridetr.files")


def give_access_back(path: Path) -> bool:
    """Let this user use a file or folder of its own again, whose mode was changed by mistake.

    Returns:
        Whether that was necessary, and done.
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
    _log.warning("%s had mode %03o: tridetr gave itself access to it again", path, mode)
    return True


def give_tree_back(folder: Path) -> None:
    """Do the same with a folder and all in it that cannot even be read; what is only read-only may be meant to be."""
    give_access_back(folder)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):
                if not os.lstat(os.path.join(parent, name)).st_mode & stat.S_IRUSR:  # noqa: PTH118
                    give_access_back(Path(parent, name))


def write_text(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace a file by one with this text (UTF-8); see :func:`write_bytes`."""
    write_bytes(path, text.encode(), mode=mode)


def write_bytes(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = False) -> None:
    """Replace a file by one with these bytes: readers see the old file or the new one, never a part.

    For one writer at a time. What a writer left that was killed meanwhile is removed by the next one.

    Args:
        path: The file; its folder must exist.
        data: The bytes.
        mode: Permissions of the new file.
        durable: Wait until the disk has it, so that a power cut leaves the old file or the new one.

    Raises:
        OSError: The file cannot be written; the old one stays.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read_text(path: Path) -> str:
    """Return a file's text without its byte-order mark.

    Raises:
        ConfigError: it cannot be read, or it is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} cannot be read: {cause}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "another encoding"
        raise ConfigError(
            f"{path}, line {line}: not UTF-8 but {found}; save the file as UTF-8"
        ) from None
