"""Signed session cookies, which survive restarts and end after 30 days, at logout, or when the token changes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import hmac
import json
import logging
import secrets
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from itsdangerous import BadData, URLSafeSerializer

from tridetr.disk_thread import PATIENCE_S, DiskStalledError, DiskThread
from tridetr.files import write_bytes

logger = logging.getLogger("tridetr.gateway")

COOKIE = "tridetr_session"
SESSION_S = 30 * 86_400
RENEW_AFTER_S = 86_400
KEY_FILE = "session.key"
ENDED_FILE = "sessions.ended"
_KEY_BYTES = 32
_MAX_COOKIE = 256
_MAX_ENDED = 10_000  # remembered logouts; beyond that the oldest are forgotten


@dataclass(frozen=True, slots=True)
class LoginSession:
    """One login session; ``expires`` is a Unix time in seconds."""

    id: str
    expires: int

    def is_due(self, now: float) -> bool:
        """Return whether the session is old enough to be renewed."""
        return self.expires - now < SESSION_S - RENEW_AFTER_S


class LoginSessions:
    """Issues, checks and ends session cookies.

    A disk that does not answer is not waited for: sessions that were issued before count as ended.

    Args:
        token: the gateway's token; changing it ends all sessions.
        state_dir: folder of the node's key and the list of sessions that were logged out.
    """

    def __init__(self, token: str, state_dir: Path) -> None:
        # With the token alone as the key, anyone who can reach the gateway could test guesses by forging cookies.
        self._disk = DiskThread("sessions")
        self._file = state_dir / ENDED_FILE
        self._late: dict[str, int] = {}  # logouts that were read after the start
        node_key, self._ended = self._stored(state_dir / KEY_FILE)
        key = hmac.digest(token.encode(), node_key, "sha256")
        self._signer = URLSafeSerializer(
            key,
            salt="tridetr session v2",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    def _stored(self, key_file: Path) -> tuple[bytes, dict[str, int]]:
        """Return the node's key and the sessions that were logged out."""
        found = self._disk.submit(lambda: (_node_key(key_file), _read_ended(self._file)))
        try:
            return found.result(PATIENCE_S)
        except concurrent.futures.TimeoutError:
            logger.warning(
                "%s: %s. All sessions have ended, and new ones end at the next restart",
                key_file,
                DiskStalledError(),
            )
            found.add_done_callback(self._read_late)  # before anything is written
            return secrets.token_bytes(_KEY_BYTES), {}

    def _read_late(self, found: Future[tuple[bytes, dict[str, int]]]) -> None:
        """Keep the logouts for the next start, which may have the stored key again."""
        if found.exception() is None:
            self._late = found.result()[1]

    def issue(self, now: float, renewed: LoginSession | None = None) -> str:
        """Return the cookie of a new or renewed session, valid for SESSION_S seconds from ``now`` (Unix time)."""
        name = renewed.id if renewed else secrets.token_urlsafe(12)
        cookie = self._signer.dumps([name, int(now) + SESSION_S])
        return cookie if isinstance(cookie, str) else cookie.decode()

    def check(self, cookie: str, now: float) -> LoginSession | None:
        """Return the session of a cookie; None if the cookie is forged or the session has expired or ended."""
        if not cookie or len(cookie) > _MAX_COOKIE or not cookie.isascii():
            return None
        try:
            name, expires = self._signer.loads(cookie)
        except (BadData, TypeError, ValueError):
            return None
        session = LoginSession(str(name), int(expires))
        return session if session.expires > now and session.id not in self._ended else None

    def end(self, session: LoginSession, now: float) -> Future[None]:
        """End a session and all its renewals; permanently, as soon as the returned future is done."""
        # A copy of the cookie may have been renewed a moment ago; while the clock is behind, the cookie itself is valid
        # for longer than that.
        ended = self._ended | {session.id: max(int(now) + SESSION_S, session.expires)}
        self._ended = dict([item for item in ended.items() if item[1] > now][-_MAX_ENDED:])
        return self._disk.submit(self._save_ended)

    def _save_ended(self) -> None:
        try:
            _write_private(self._file, json.dumps(self._late | self._ended).encode())
        except OSError as error:
            logger.warning(
                "cannot write %s (%s): logged-out sessions will be valid again after a restart",
                self._file,
                error,
            )


def _node_key(path: Path) -> bytes:
    """Return the node's random key, which is created at the first start and kept in the state folder."""
    with contextlib.suppress(OSError):
        key = path.read_bytes()
        if len(key) == _KEY_BYTES:
            return key
    key = secrets.token_bytes(_KEY_BYTES)
    try:
        _write_private(path, key)
    except OSError as error:
        logger.warning("cannot write %s (%s): all sessions end at the next restart", path, error)
    return key


def _read_ended(path: Path) -> dict[str, int]:
    try:
        found = json.loads(path.read_bytes())
        return {str(name): int(expires) for name, expires in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        logger.warning(
            "cannot read %s (%s): logged-out sessions may be valid again. "
            "Change the token to end all sessions.",
            path,
            error,
        )
        return {}


def _write_private(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_bytes(path, content)
