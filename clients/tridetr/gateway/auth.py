"""Check the gateway's token in every form in which clients can send it.

Browsers cannot set headers on a WebSocket, and a token in a URL ends up in logs. People therefore log in once with the
token and get a signed session cookie. Programs send ``Authorization: Bearer`` or, from a browser page of another
origin, offer the subprotocol ``tridetr.bearer.<base64url(token)>`` in addition to ``tridetr.v1``. Snapshots and
streams also accept ``Basic`` with the token as the password, because many dashboards and players support nothing else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

BEARER_SUBPROTOCOL = "tridetr.bearer."


class TokenAuth:
    """Compares the credentials of a client with the token.

    Attributes:
        required: whether a token is configured at all.
    """

    def __init__(self, token: str | None) -> None:
        self.required = token is not None
        self._digest = hashlib.sha256((token or "").encode()).digest()

    def is_token(self, candidate: str | bytes) -> bool:
        """Return whether ``candidate`` is the token, by comparing digests in constant time."""
        data = candidate.encode(errors="surrogatepass") if isinstance(candidate, str) else candidate
        return self.required and hmac.compare_digest(hashlib.sha256(data).digest(), self._digest)

    def is_bearer(self, authorization: str) -> bool:
        """Return whether an ``Authorization`` header is ``Bearer TOKEN``."""
        scheme, credentials = _split(authorization)
        return scheme == "bearer" and self.is_token(credentials)

    def is_basic(self, authorization: str) -> bool:
        """Return whether an ``Authorization`` header is ``Basic`` with the token as the password and any user."""
        scheme, credentials = _split(authorization)
        pair = _decode(credentials) if scheme == "basic" else None
        return pair is not None and self.is_token(pair.partition(b":")[2])

    def is_subprotocol(self, offered: Sequence[str]) -> bool:
        """Return whether one of the offered WebSocket subprotocols carries the token."""
        tokens = (
            _decode(name[len(BEARER_SUBPROTOCOL) :])
            for name in offered
            if name.startswith(BEARER_SUBPROTOCOL)
        )
        return any(token is not None and self.is_token(token) for token in tokens)


def _split(authorization: str) -> tuple[str, str]:
    scheme, _, credentials = authorization.strip().partition(" ")
    return scheme.lower(), credentials.strip()


def _decode(text: str) -> bytes | None:
    """Decode Base64 of either alphabet, with or without padding; return None if it is invalid."""
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
