"""Signed session cookies: they outlive a restart, and end with the token, after 30 days or at the logout."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path

from itsdangerous import BadData, URLSafeSerializer

from tridetr.files import write_bytes

logger = logging.getLogger("tridetr.gateway")

COOKIE = "tridetr_session"
SESSION_S = 30 * 86_400
RENEW_AFTER_S = 86_400
KEY_FILE = "session.key"
ENDED_FILE = "sessions.ended"
_KEY_BYTES = 32
_MAX_COOKIE = 256
_MAX_ENDED = 10_000  # logouts within SESSION_S; the oldest are forgotten beyond that


@dataclass(frozen=True, slots=True)
class LoginSession:
    """One login; ``expires`` is a Unix time."""

    id: str
    expires: int

    def is_due(self, now: float) -> bool:
        """Return whether it is old enough to be renewed."""
        return self.expires - now < SESSION_S - RENEW_AFTER_S


class LoginSessions:
    """Issues session cookies, checks them, and ends them.

    Args:
        token: the gateway's token; another one ends all sessions.
        state_dir: holds the node's key and the sessions that were ended by a logout.
    """

    def __init__(self, token: str, state_dir: Path) -> None:
        # The token alone as the key would let anyone who reaches the gateway test tokens by forging cookies.
        key = hmac.digest(token.encode(), _node_key(state_dir / KEY_FILE), "sha256")
        self._signer = URLSafeSerializer(
            key,
            salt="tridetr session v2",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )
        self._file = state_dir / ENDED_FILE
        self._ended = _read_ended(self._file)

    def issue(self, now: float, renewed: LoginSession | None = None) -> str:
        """Return the cookie of a new session, or of a renewed one, that holds for SESSION_S seconds from ``now``."""
        name = renewed.id if renewed else secrets.token_urlsafe(12)
        cookie = self._signer.dumps([name, int(now) + SESSION_S])
        return cookie if isinstance(cookie, str) else cookie.decode()

    def check(self, cookie: str, now: float) -> LoginSession | None:
        """Return the session of this cookie; None when it is forged, over or ended."""
        if not cookie or len(cookie) > _MAX_COOKIE or not cookie.isascii():
            return None
        try:
            name, expires = self._signer.loads(cookie)
        except (BadData, TypeError, ValueError):
            return None
        session = LoginSession(str(name), int(expires))
        return session if session.expires > now and session.id not in self._ended else None

    def end(self, session: LoginSession, now: float) -> None:
        """End a session with all its renewals, also across a restart."""
        # A copy of the cookie may have been renewed until just now.
        self._ended[session.id] = int(now) + SESSION_S
        held = [item for item in self._ended.items() if item[1] > now][-_MAX_ENDED:]
        self._ended = dict(held)
        try:
            _write_private(self._file, json.dumps(self._ended).encode())
        except OSError as error:
            logger.warning(
                "cannot write %s (%s): sessions that were logged out are valid again after a restart",
                self._file,
                error,
            )


def _node_key(path: Path) -> bytes:
    """Return the node's random key, made at the first start and kept so that sessions outlive a restart."""
    with contextlib.suppress(OSError):
        key = path.read_bytes()
        if len(key) == _KEY_BYTES:
            return key
    key = secrets.token_bytes(_KEY_BYTES)
    try:
        _write_private(path, key)
    except OSError as error:
        logger.warning("cannot write %s (%s): people log in again after a restart", path, error)
    return key


def _read_ended(path: Path) -> dict[str, int]:
    try:
        found = json.loads(path.read_bytes())
        return {str(name): int(expires) for name, expires in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logger.warning(
            "cannot read %s (%s): sessions that were logged out may be valid again. "
            "Change the token to end all of them.",
            path,
            error,
        )
        return {}


def _write_private(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_bytes(path, content)
