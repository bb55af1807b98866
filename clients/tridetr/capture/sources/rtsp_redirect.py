"""Follow the redirects of RTSP cameras before FFmpeg connects, which would send user and password to the new host."""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
import time
from collections.abc import Iterator
from typing import BinaryIO, cast
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

from tridetr.capture.sources.base import LoginRefusedError, LoginTakenError
from tridetr.capture.sources.login import Login
from tridetr.config.source import shown_url
from tridetr.errors import SourceError
from tridetr.hang_up import HangUp, open_connection

_MOST_REDIRECTS = 5
_MAX_LINE = 1 << 12
_MAX_BODY = 1 << 16
_KNOWN_S = 60.0
# Addresses in which FFmpeg and Python find the same host, or none
_PLAIN = re.compile(
    r"rtsps?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[!-~]*)?|/(?!/)[!-9;-~]*"
)
# Configured URL: where it leads to, and until when this counts. Some cameras serve one connection at a time and take
# seconds to notice that it has ended: the attempt after the one that asked must not ask again.
_known: dict[str, tuple[str, float]] = {}
# Configured URL: the error of the attempt in which its login was taken. The next attempt raises it again if it was not
# reported, because the attempt had been given up, or the stream had been opened already.
_taken: dict[str, LoginTakenError] = {}


def final_url(
    url: str, shown: str, tls: ssl.SSLContext | None, timeout_s: float, hang_up: HangUp
) -> str:
    """Return the URL that a camera's redirects lead to; on another host, port or scheme without user and password.

    Asks as FFmpeg does (OPTIONS, DESCRIBE), at most once a minute, and only if there is a login to protect. What is
    not RTSP, or is not understood, is left for FFmpeg to report.

    Args:
        url: URL of the camera, which may contain `user:password@`.
        shown: URL for messages.
        tls: How to verify rtsps.
        timeout_s: Timeout of each read [s].
        hang_up: Once set, ends a read in progress.

    Raises:
        LoginRefusedError: The camera does not accept user and password.
        LoginTakenError: Another host may have received them, which was not reported yet.
        SourceError: `hang_up` is set, it does not respond, its redirects do not end, or they lead from rtsps to rtsp.
    """
    configured = url
    taken = _taken.pop(configured, None)
    if taken is not None and not taken.is_reported:
        raise _remembered(configured, str(taken))
    found, until_s = _known.get(configured, ("", 0.0))
    if time.monotonic() < until_s:
        _refuse_unencrypted(configured, found, shown)
        return found
    if not urlsplit(configured).netloc.rpartition("@")[0]:
        return configured
    for _ in range(_MOST_REDIRECTS):
        is_answered = True
        try:
            location = _ask(urlsplit(url), shown, tls, timeout_s, hang_up)
        except TimeoutError:
            raise SourceError(
                f"cannot open {shown}: no answer; are the camera and the network up?"
            ) from None
        except OSError:
            location, is_answered = None, False
        except (ValueError, http.client.HTTPException):
            location = None
        if hang_up.is_set():  # it ended the answer
            raise SourceError(f"cannot open {shown}: gave up waiting")
        if location is None:
            if is_answered:
                _known[configured] = url, time.monotonic() + _KNOWN_S
            return url
        url = _redirected(url, location, shown)
        _refuse_unencrypted(configured, url, shown)
    raise SourceError(f"cannot open {shown}: it redirects more than {_MOST_REDIRECTS} times")


def refuse_followed(configured: str, opened: str, location: str, shown: str) -> None:
    """Refuse a redirect that FFmpeg met after `final_url` had asked: FFmpeg sends user and password to any host.

    Args:
        configured: URL of the camera.
        opened: URL that FFmpeg opened.
        location: Where it was redirected to.
        shown: URL for messages.

    Raises:
        LoginTakenError: User and password were sent to another host, port or scheme.
        SourceError: It is not encrypted, although the configured URL is.
    """
    if not urlsplit(opened).password:
        _refuse_unencrypted(configured, _redirected(opened, location, shown), shown)
        return
    new, taker = "", "an odd address"
    if _PLAIN.fullmatch(location):
        with contextlib.suppress(SourceError):  # FFmpeg may have understood it nevertheless
            new = _redirected(opened, location, shown)
            taker = shown_url(new)
    if not urlsplit(new).password:
        raise _login_taken(configured, taker, shown)
    _refuse_unencrypted(configured, new, shown)


def _login_taken(configured: str, taker: str, shown: str) -> LoginTakenError:
    _known.pop(configured, None)
    return _remembered(
        configured,
        f"cannot open {shown}: it redirected FFmpeg to {taker}, which may have received user and password: a "
        "moment before, it did not redirect. Change the password if you do not trust that host; otherwise set source "
        "to it",
    )


def _remembered(configured: str, message: str) -> LoginTakenError:
    error = _taken[configured] = LoginTakenError(message)
    return error


def _redirected(url: str, location: str, shown: str) -> str:
    ours, base = urlsplit(url), urlunsplit(urlsplit(url)._replace(scheme="http"))
    try:
        theirs = urlsplit(urljoin(base, location))
        if "://" not in location:
            theirs = theirs._replace(scheme=ours.scheme)
        host = theirs.netloc.rpartition("@")[2]
        new = urlunsplit(theirs._replace(netloc=host))
        is_same = (theirs.scheme, *_address(new)) == (ours.scheme, *_address(url))
    except ValueError:
        theirs = urlsplit("")
    if theirs.scheme not in ("rtsp", "rtsps") or not theirs.hostname:
        raise SourceError(
            f"cannot open {shown}: it redirects to an address that is not rtsp:// or rtsps://"
        )
    return urlunsplit(theirs._replace(netloc=ours.netloc)) if is_same else new


def _refuse_unencrypted(configured: str, new: str, shown: str) -> None:
    if urlsplit(configured).scheme == "rtsps" and urlsplit(new).scheme != "rtsps":
        raise SourceError(
            f"cannot open {shown}: it redirects to {shown_url(new)}, which is not encrypted; configure the camera to "
            "redirect to rtsps, or set source to that address"
        )


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (322 if parts.scheme == "rtsps" else 554)


def _ask(
    url: SplitResult, shown: str, tls: ssl.SSLContext | None, timeout_s: float, hang_up: HangUp
) -> str | None:
    """Return where a camera redirects to; None if it does not."""
    user_info, _, host = url.netloc.rpartition("@")
    user, _, password = user_info.partition(":")
    bare = urlunsplit(url._replace(netloc=host))
    login = Login(unquote(user), unquote(password), bare) if password else None
    challenges: list[str] = []
    with _connected(url, tls, timeout_s, hang_up) as stream:
        for number, method in enumerate(("OPTIONS", "DESCRIBE"), 1):
            authorization = login.header(method, bare, bare, challenges) if login else ""
            status, headers = _request(stream, method, bare, number, authorization)
            if status == 401 and login is not None:
                challenges = headers.get_all("WWW-Authenticate", [])
                authorization = login.header(method, bare, bare, challenges)
                if authorization:
                    status, headers = _request(stream, method, bare, number + 2, authorization)
                    if status == 401:
                        raise LoginRefusedError(shown, status, with_password=True)
            if 300 <= status < 400 and headers["Location"]:
                return str(headers["Location"]).strip()
            if status != 200:
                return None
    return None


@contextlib.contextmanager
def _connected(
    url: SplitResult, tls: ssl.SSLContext | None, timeout_s: float, hang_up: HangUp
) -> Iterator[BinaryIO]:
    host, port = _address(urlunsplit(url))
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(open_connection(host, port, timeout_s, hang_up))
        if url.scheme == "rtsps":
            context = tls or ssl.create_default_context()  # the target of a redirect
            sock = stack.enter_context(
                context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
            )
            hang_up.attach(sock)
            sock.do_handshake()
        yield cast(BinaryIO, stack.enter_context(sock.makefile("rwb")))


def _request(
    stream: BinaryIO, method: str, url: str, number: int, authorization: str
) -> tuple[int, http.client.HTTPMessage]:
    lines = [f"{method} {url} RTSP/1.0", f"CSeq: {number}", "User-Agent: tridetr"]
    if method == "DESCRIBE":
        lines.append("Accept: application/sdp")
    head = "\r\n".join(lines).encode()
    if authorization:
        head += b"\r\nAuthorization: " + authorization.encode("latin-1")
    stream.write(head + b"\r\n\r\n")
    stream.flush()
    words = stream.readline(_MAX_LINE).split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"RTSP/"):
        raise ValueError("not RTSP")
    headers = http.client.parse_headers(stream)
    stream.read(max(0, min(int(headers["Content-Length"] or 0), _MAX_BODY)))  # -1 would be all
    return int(words[1]), headers
