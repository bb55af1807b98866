"""An HTTP POST with a deadline, without redirects, whose errors never contain the URL."""

from __future__ import annotations

import base64
import http.client
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from tridetr.config.source import shown_url
from tridetr.hang_up import HangUp, PlainConnection, TlsConnection

STALL_S = 10.0  # timeout of a single read or write
DEADLINE_S = 30.0  # timeout of the whole exchange, even if the server keeps sending single bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer.

    Attributes:
        origin: scheme, host and port that answered, without path and user; see `shown_url`.
        status: HTTP status code.
        reason: meaning of the status, or empty; not the server's words, which may repeat the URL.
        retry_after_s: seconds from the ``Retry-After`` header; 0 = none.
    """

    origin: str
    status: int
    reason: str
    retry_after_s: float


def post(url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    """POST a body to a URL; user and password of the URL are sent as Basic authorization.

    Raises:
        OSError: the connection failed, or there was no HTTP answer in time.
        ValueError: the URL is not a valid HTTP or HTTPS URL.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(
            "the URL is not valid: percent-encode brackets in user and password ([ is %5B, ] is %5D)"
        ) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the URL must start with http:// or https:// and contain a host")
    try:
        port = parts.port
    except ValueError:
        raise ValueError("the port in the URL must be a number from 0 to 65535") from None
    origin = shown_url(url)
    if parts.username is not None or parts.password is not None:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        encoded = base64.b64encode(pair.encode()).decode()
        headers = {**headers, "Authorization": f"Basic {encoded}"}
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    late = HangUp()
    connection: PlainConnection
    if parts.scheme == "https":
        tls = ssl.create_default_context()
        connection = TlsConnection(parts.hostname, port, hang_up=late, tls=tls, timeout=STALL_S)
    else:
        connection = PlainConnection(parts.hostname, port, hang_up=late, timeout=STALL_S)
    timer = threading.Timer(DEADLINE_S, late.set)
    timer.daemon = True
    timer.start()
    try:
        connection.request("POST", path, body, dict(headers))
        answer = connection.getresponse()
        if late.is_set():  # http.client takes the end of the connection for the end of the headers
            raise OSError("cut off")
        reason = http.client.responses.get(answer.status, "")
        return Answer(origin, answer.status, reason, _seconds(answer.getheader("Retry-After")))
    except TimeoutError:
        raise TimeoutError(f"{origin} does not answer within {STALL_S:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        if late.is_set():
            raise TimeoutError(f"{origin} has not answered after {DEADLINE_S:g} s") from None
        raise OSError(f"{origin}: {_explained(error)}") from None
    finally:
        timer.cancel()
        connection.close()


def _explained(error: Exception) -> str:
    """Return what failed, without the text of http.client's errors, which may repeat sent or received data."""
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return f"not an HTTP answer ({type(error).__name__})"


def _seconds(retry_after: str | None) -> float:
    text = (retry_after or "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0.0
