"""Reading text files that people write: UTF-8 with or without a byte-order mark, or a clear error."""

from __future__ import annotations

from pathlib import Path

from tridetr.errors import ConfigError


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
