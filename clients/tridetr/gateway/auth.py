"""Who may see the cameras: bearer token, session cookie, WebSocket subprotocol (pure: the caller tells the time).

Browsers cannot set headers on a WebSocket, and a token in an address ends up in logs. So people log in once with the
token and carry a signed session cookie; programs send ``Authorization: Bearer`` or, from a browser of another origin,
offer the subprotocol ``tridetr.bearer.<base64url(token)>`` beside ``tridetr.v1``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

COOKIE = "tridetr_session"
SESSION_S = 30 * 86_400
RENEW_AFTER_S = 86_400
BEARER_SUBPROTOCOL = "tridetr.bearer."


class TokenAuth:
    """Checks every way to show the token; without a token everybody is let in."""

    def __init__(self, token: str | None, salt: bytes = b"") -> None:
        """Take the token and what makes session cookies more than a test of it.

        Args:
            token: what must be shown; None: nothing.
            salt: secret of this node, so that nobody can try tokens by signing cookies with them.
        """
        self.required = token is not None
        secret = (token or "").encode()
        self._digest = hashlib.sha256(secret).digest()
        # Sessions are signed with a key made from both: they outlive a restart, and end with the token.
        self._session_key = hmac.digest(secret, b"tridetr session v1" + salt, "sha256")

    def is_token(self, candidate: str | bytes) -> bool:
        """Compare in constant time, whatever the length of ``candidate``."""
        data = candidate.encode(errors="surrogatepass") if isinstance(candidate, str) else candidate
        return self.required and hmac.compare_digest(hashlib.sha256(data).digest(), self._digest)

    def is_bearer(self, authorization: str) -> bool:
        """Whether this ``Authorization`` header carries the token."""
        scheme, _, credentials = authorization.strip().partition(" ")
        return scheme.lower() == "bearer" and self.is_token(credentials.strip())

    def is_subprotocol(self, offered: Sequence[str]) -> bool:
        """Whether one of the offered WebSocket subprotocols carries the token."""
        for name in offered:
            if name.startswith(BEARER_SUBPROTOCOL):
                text = name[len(BEARER_SUBPROTOCOL) :]
                try:
                    token = base64.b64decode(
                        text + "=" * (-len(text) % 4), altchars=b"-_", validate=True
                    )
                except (binascii.Error, ValueError):
                    continue
                if self.is_token(token):
                    return True
        return False

    def new_session(self, now: float) -> str:
        """Return the value of a session cookie that holds for SESSION_S seconds from ``now`` (Unix time)."""
        expires = str(int(now) + SESSION_S)
        return f"{expires}.{self._sign(expires)}"

    def session_expires(self, cookie: str, now: float) -> int | None:
        """Return the Unix time at which this session ends, or None when it is not valid."""
        expires, _, signature = cookie.partition(".")
        if not self.required or len(cookie) > 128 or not (expires.isascii() and expires.isdigit()):
            return None
        shown = signature.encode(errors="surrogatepass")
        if not hmac.compare_digest(shown, self._sign(expires).encode()):
            return None
        return int(expires) if int(expires) > now else None

    def is_session_due(self, expires: int, now: float) -> bool:
        """Whether a valid session is old enough to be renewed."""
        return expires - now < SESSION_S - RENEW_AFTER_S

    def _sign(self, text: str) -> str:
        signature = hmac.digest(self._session_key, text.encode(), "sha256")
        return base64.urlsafe_b64encode(signature).rstrip(b"=").decode()


def subprotocol_for(token: str) -> str:
    """Return the subprotocol that carries ``token``."""
    return BEARER_SUBPROTOCOL + base64.urlsafe_b64encode(token.encode()).rstrip(b"=").decode()
