"""GET requests to HTTP cameras: TLS, one login attempt per request, no proxies, and errors with a remedy."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import partial
from typing import IO, cast
from urllib.parse import unquote, unquote_plus, urlsplit, urlunsplit

from tridetr.capture.sources.base import LoginRefusedError
from tridetr.capture.sources.login import Login, is_same_server
from tridetr.capture.sources.tls import TLS_REMEDY
from tridetr.config.source import shown_url
from tridetr.errors import SourceError
from tridetr.foreign_text import printable
from tridetr.hang_up import HangUp, PlainConnection, TlsConnection

_MOST_ENCODED = 3  # times that a server may have encoded a password once more
_CHALLENGE_LENGTH = 60


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """URL of an HTTP camera, and how to connect to it.

    Attributes:
        url: URL without user and password, unless path or query contain them; never shown.
        shown: URL for messages.
        login: User and password for Basic or Digest authentication.
        tls: How to verify https.
        timeout_s: Timeout of each read [s].
        hang_up: Once set, ends a read in progress.
        secret: Password in path or query, which no other server may get; empty = there is none.
    """

    url: str
    shown: str
    login: tuple[str, str] | None
    tls: ssl.SSLContext | None
    timeout_s: float
    hang_up: HangUp
    secret: str = ""


def http_address(
    url: str,
    shown: str,
    tls: ssl.SSLContext | None,
    timeout_s: float,
    hang_up: HangUp,
    secret: str = "",
) -> HttpAddress:
    """Return the address of a URL that may hold `user:password@` (see `HttpAddress`)."""
    parts = urlsplit(url)
    user_info, _, host = parts.netloc.rpartition("@")
    user, _, password = user_info.partition(":")
    login = (unquote(user), unquote(password)) if password else None
    bare = urlunsplit(parts._replace(netloc=host))
    return HttpAddress(bare, shown, login, tls, timeout_s, hang_up, secret)


def get(address: HttpAddress) -> http.client.HTTPResponse:
    """Send a GET request, ignoring the environment's proxies.

    Raises:
        LoginRefusedError: It does not accept user and password.
        SourceError: The request failed.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Connections(address),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(address),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    if address.login is not None:
        opener.add_handler(_OneLogin(address, *address.login))
    request = urllib.request.Request(address.url, headers={"User-Agent": "tridetr"})  # noqa: S310
    try:
        return cast(http.client.HTTPResponse, opener.open(request, timeout=address.timeout_s))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            was_sent = address.login is not None or bool(address.secret)
            raise LoginRefusedError(address.shown, error.code, was_sent) from None
        raise SourceError(
            f"cannot open {address.shown}: HTTP {error.code}; check the path of the URL in the "
            "camera's manual"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SourceError(f"cannot open {address.shown}: {cause(error)}") from None


def refuse_unsafe(address: HttpAddress, url: str, new: str) -> None:
    """Refuse to go on from https to http, or to another server with the password in the URL.

    Pictures over http would be neither verified nor encrypted.

    Args:
        address: Address of the camera.
        url: URL that led to the new one.
        new: The new one.

    Raises:
        SourceError: It is refused.
    """
    if urlsplit(url).scheme == "https" and urlsplit(new).scheme != "https":
        raise SourceError(
            f"cannot open {address.shown}: it leads to {shown_url(new)}, which is not encrypted; configure the camera, "
            "or the proxy in front of it, to use https there, or set source to that address"
        )
    texts = {new}
    for _ in range(_MOST_ENCODED):
        texts |= {decode(text) for text in texts for decode in (unquote, unquote_plus)}
    if (
        address.secret
        and any(address.secret in text for text in texts)
        and not is_same_server(address.url, new)
    ):
        raise SourceError(  # without the new URL: its host may contain the password
            f"cannot open {address.shown}: it leads to another host, port or scheme with the password in the URL, "
            "which is sent only to the configured one; set source to that address if you trust it"
        )


def cause(error: Exception) -> str:
    """Return cause and remedy of a failed request, without the URL."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({reason.verify_message}); {TLS_REMEDY}"
    if isinstance(reason, TimeoutError):
        return "no answer; are the camera and the network up?"
    if isinstance(reason, ConnectionRefusedError):
        return "connection refused; is the camera on, and are host and port right?"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return f"the answer is not HTTP ({type(reason).__name__})"


def read_some(address: HttpAddress, response: http.client.HTTPResponse, size: int) -> bytes:
    """Return the next bytes of a response as soon as some have arrived; none at its end.

    Raises:
        SourceError: None arrived in time, or the HTTP is broken.
        OSError: The connection broke.
    """
    try:
        return response.read1(size)
    except TimeoutError:
        raise SourceError(
            f"{address.shown}: no data for {address.timeout_s:g} s; are the camera and the network up?"
        ) from None
    except http.client.HTTPException as error:
        raise SourceError(f"{address.shown}: broken HTTP ({type(error).__name__})") from None


class HttpBody:
    """The body of a response, as a file-like object for FFmpeg."""

    def __init__(
        self, address: HttpAddress, response: http.client.HTTPResponse, start: bytes
    ) -> None:
        """Continue reading a response.

        Args:
            address: For messages.
            response: The response.
            start: The bytes already read from it.
        """
        self._address = address
        self._response = response
        self._start = start

    def read(self, size: int) -> bytes:
        if self._start:
            data, self._start = self._start[:size], self._start[size:]
            return data
        return read_some(self._address, self._response, size)

    def close(self) -> None:
        self._response.close()


class _Connections(urllib.request.AbstractHTTPHandler):
    """Opens plain and TLS connections that `HttpAddress.hang_up` can abort."""

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def __init__(self, address: HttpAddress) -> None:
        super().__init__()
        self._address = address

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(PlainConnection, hang_up=self._address.hang_up), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        tls = self._address.tls or ssl.create_default_context()  # the target of a redirect
        return self.do_open(partial(TlsConnection, hang_up=self._address.hang_up, tls=tls), req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, except unsafe ones."""

    def __init__(self, address: HttpAddress) -> None:
        self._address = address

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        try:
            refuse_unsafe(self._address, req.full_url, newurl)
        except SourceError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _OneLogin(urllib.request.BaseHandler):
    """Logs in once: a refused login ends the request, because cameras lock an account after some failures."""

    def __init__(self, address: HttpAddress, user: str, password: str) -> None:
        self._login = Login(user, password, address.url)
        self._shown = address.shown

    def http_error_401(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
    ) -> object:
        challenges = headers.get_all("WWW-Authenticate", [])
        if req.has_header("Authorization"):
            raise urllib.error.HTTPError(req.full_url, code, msg, headers, fp)
        if not self._login.is_for(req.full_url):
            fp.close()
            raise SourceError(
                f"cannot open {self._shown}: it redirects to {shown_url(req.full_url)}, which requires a login, but "
                "the password is sent only to the configured host; set source to that address"
            )
        answer = self._login.header(req.get_method(), req.full_url, req.selector, challenges)
        fp.close()
        if not answer:
            asked = printable(", ".join(challenges), _CHALLENGE_LENGTH) or "it names none"
            raise SourceError(
                f"cannot open {self._shown}: it requires a login in a way that is not supported ({asked}); set the "
                "camera to Digest with SHA-256 or MD5, or to Basic"
            )
        req.add_unredirected_header("Authorization", answer)
        return self.parent.open(req, timeout=req.timeout)
