"""The secret beside the token that session cookies are signed with."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from pathlib import Path

logger = logging.getLogger("tridetr.gateway")

FILE = "session.key"
_BYTES = 32


def session_salt(state_dir: Path) -> bytes:
    """Return the node's random salt, made at the first start and kept so that sessions outlive a restart.

    With the token alone as the key, whoever reaches the gateway could try tokens by forging cookies, past the limit
    that holds for wrong tokens.
    """
    path = state_dir / FILE
    with contextlib.suppress(OSError):
        salt = path.read_bytes()
        if len(salt) == _BYTES:
            return salt
    salt = secrets.token_bytes(_BYTES)
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        waiting = path.with_suffix(".new")
        waiting.unlink(missing_ok=True)
        with os.fdopen(os.open(waiting, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(salt)
        waiting.replace(path)
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s): people log in again after a restart", path, error
        )
    return salt
