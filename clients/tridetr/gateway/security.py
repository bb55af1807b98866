"""Every request and answer passes here: host, origin, token, rate; and the headers that bind browsers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from quart import Quart, Response, jsonify, redirect, request, websocket
from quart.wrappers import Request, Websocket
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse

from tridetr.gateway.auth import COOKIE, SESSION_S, TokenAuth
from tridetr.gateway.limits import PeerBuckets
from tridetr.gateway.origins import is_host_trusted, is_origin_allowed

Answer: TypeAlias = Response | WerkzeugResponse
# Open without a token: probes, the login page, and the viewer's own code (which is public anyway).
OPEN_PATHS = ("/healthz", "/readyz", "/login")
OPEN_PREFIX = "/static/"

HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' blob:",
            "connect-src 'self'",
            "manifest-src 'self'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": browsers then post the login form with "Origin: null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}

_REQUESTS = (50.0, 400.0)  # a second, at once: a page with 64 cameras loads in one go
_FAILURES = (0.2, 10.0)  # wrong tokens


def problem(status: int, text: str, **headers: str) -> Response:
    """Return a JSON error."""
    response = jsonify({"error": text})
    response.status_code = status
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response


class Guard:
    """Decides who is let in."""

    def __init__(
        self,
        auth: TokenAuth,
        allowed_origins: tuple[str, ...],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.auth = auth
        self.allowed_origins = allowed_origins
        self._clock = clock
        self._requests = PeerBuckets(*_REQUESTS)
        self._failures = PeerBuckets(*_FAILURES)

    def install(self, app: Quart) -> None:
        """Put the guard in front of every route of ``app``."""
        app.before_request(self.check_request)
        app.before_websocket(self.check_websocket)
        app.after_request(self.finish)
        app.after_websocket(self.finish_websocket)
        app.register_error_handler(HTTPException, _http_problem)

    async def check_request(self) -> Answer | None:
        """Refuse a request, or let it pass (None)."""
        refused = self._check_common(request)
        if refused is not None:
            return refused
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            refused = self._check_origin(request)
            if refused is not None:
                return refused
        path = request.path
        if path in OPEN_PATHS or path.startswith(OPEN_PREFIX):
            return None
        if path == "/" and not self.auth.is_bearer(request.headers.get("Authorization", "")):
            return (
                None
                if self._has_session(request) or not self.auth.required
                else redirect("/login", 303)
            )
        return self._check_token(request, ())

    async def check_websocket(self) -> Answer | None:
        """Refuse a WebSocket before it is accepted, or let it pass (None)."""
        return (
            self._check_common(websocket)
            or self._check_origin(websocket)
            or self._check_token(websocket, websocket.requested_subprotocols)
        )

    def login(self, token: str) -> Answer | None:
        """Return a refusal, or None when ``token`` is right."""
        failures, now = self._failures.of(_peer(request)), self._clock()
        if failures.is_empty(now):
            return self._too_many(failures.wait_s())
        if self.auth.is_token(token):
            return None
        failures.take(now)
        return problem(401, "this is not the token")

    def set_session(self, response: Answer) -> None:
        """Give the browser a fresh session cookie."""
        response.set_cookie(
            COOKIE,
            self.auth.new_session(time.time()),
            max_age=SESSION_S,
            secure=_is_https(request),
            httponly=True,
            samesite="Strict",
        )

    async def finish(self, response: Answer) -> Answer:
        """Add the headers that every answer carries, and renew the session with the page."""
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-store")
        if self.auth.required and request.path == "/":
            now = time.time()
            expires = self.auth.session_expires(request.cookies.get(COOKIE, ""), now)
            if expires is not None and self.auth.is_session_due(expires, now):
                self.set_session(response)
        return response

    async def finish_websocket(self, response: Answer | None) -> Answer | None:
        """Add the headers to refusals."""
        if response is not None:
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
        return response

    def _check_common(self, asked: Request | Websocket) -> Answer | None:
        bucket = self._requests.of(_peer(asked))
        if not bucket.take(self._clock()):
            return self._too_many(bucket.wait_s())
        host = asked.headers.get("Host", "")
        # With a token a foreign page has nothing to gain: the cookie belongs to another host name.
        if not self.auth.required and not is_host_trusted(host, self.allowed_origins):
            return problem(
                421,
                "this host name is not known to be this machine's: add its origin to gateway.allowed_origins, or "
                "set gateway.token_file",
            )
        return None

    def _check_origin(self, asked: Request | Websocket) -> Answer | None:
        origin = asked.headers.get("Origin")
        if origin is None:  # not a browser
            return None
        if is_origin_allowed(origin.lower(), asked.headers.get("Host", ""), self.allowed_origins):
            return None
        return problem(403, "this origin is not in gateway.allowed_origins")

    def _has_session(self, asked: Request | Websocket) -> bool:
        cookie = asked.cookies.get(COOKIE, "")
        return self.auth.session_expires(cookie, time.time()) is not None

    def _check_token(
        self, asked: Request | Websocket, subprotocols: list[str] | tuple[()]
    ) -> Answer | None:
        if not self.auth.required or self._has_session(asked):
            return None
        header = asked.headers.get("Authorization", "")
        shown = bool(header) or any(name != "tridetr.v1" for name in subprotocols)
        failures, now = self._failures.of(_peer(asked)), self._clock()
        if shown:
            if failures.is_empty(now):
                return self._too_many(failures.wait_s())
            if self.auth.is_bearer(header) or self.auth.is_subprotocol(subprotocols):
                return None
            failures.take(now)
        return problem(401, "a token is needed", WWW_Authenticate='Bearer realm="tridetr"')

    def _too_many(self, wait_s: float) -> Answer:
        return problem(429, "too many requests", Retry_After=str(max(1, round(wait_s))))


def _peer(asked: Request | Websocket) -> str:
    return asked.remote_addr or "local"


def _is_https(asked: Request) -> bool:
    # A header that anybody can set: it decides about nothing but the cookie's Secure flag.
    return asked.is_secure or asked.headers.get("X-Forwarded-Proto", "") == "https"


async def _http_problem(error: HTTPException) -> Answer:
    response = problem(error.code or 500, error.description or error.name)
    if error.code == 405:
        methods = getattr(error, "valid_methods", None) or ()
        response.headers["Allow"] = ", ".join(sorted(methods))
    return response
