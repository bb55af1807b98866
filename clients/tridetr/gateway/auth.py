"""The gateway's token in every form in which it is shown.

Browsers cannot set headers on a WebSocket, and a token in an address ends up in logs. So people log in once with the
token and carry a signed session cookie; programs send ``Authorization: Bearer`` or, from a browser of another origin,
offer the subprotocol ``tridetr.bearer.<base64url(token)>`` next to ``tridetr.v1``. Snapshots and streams also take
``Basic``, with the token as the password, because that is all that many dashboards and players know.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

BEARER_SUBPROTOCOL = "tridetr.bearer."


class TokenAuth:
    """Compares what a client shows with the token.

    Attributes:
        required: whether a token is configured at all.
    """

    def __init__(self, token: str | None) -> None:
        self.required = token is not None
        self._digest = hashlib.sha256((token or "").encode()).digest()

    def is_token(self, candidate: str | bytes) -> bool:
        """Compare in constant time, whatever the length of ``candidate``."""
        data = candidate.encode(errors="surrogatepass") if isinstance(candidate, str) else candidate
        return self.required and hmac.compare_digest(hashlib.sha256(data).digest(), self._digest)

    def is_bearer(self, authorization: str) -> bool:
        """Return whether this ``Authorization`` header is ``Bearer TOKEN``."""
        scheme, credentials = _split(authorization)
        return scheme == "bearer" and self.is_token(credentials)

    def is_basic(self, authorization: str) -> bool:
        """Return whether this ``Authorization`` header is ``Basic``, with any user and the token as the password."""
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
    """Decode Base64 of either alphabet, with or without padding; None when it is not."""
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
