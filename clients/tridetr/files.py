"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


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
