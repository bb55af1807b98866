"""Access control for every request (host, origin, token, rate limit), and the security headers of every response."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import TypeAlias
from weakref import WeakValueDictionary

from quart import Quart, Response, jsonify, redirect, request, websocket
from quart.wrappers import Request, Websocket
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse

from tridetr.config import GatewaySection
from tridetr.disk_thread import PATIENCE_S, DiskStalledError
from tridetr.gateway.auth import TokenAuth
from tridetr.gateway.clients import Proxies, site_of
from tridetr.gateway.limits import Bucket, PeerBuckets
from tridetr.gateway.login_sessions import COOKIE, SESSION_S, LoginSession, LoginSessions
from tridetr.gateway.message import PROTOCOL
from tridetr.gateway.origins import is_host_trusted, is_origin_allowed
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.gateway")
Answer: TypeAlias = Response | WerkzeugResponse
_SESSION_COOKIE = re.compile(rf"(?:^|;)\s*{COOKIE}=([^;\s]*)")
# Accessible without a token: probes, the login page, and the viewer's code (which is public anyway).
OPEN_PATHS = ("/healthz", "/readyz", "/login")
OPEN_PREFIX = "/static/"
PAGES = {"/": "login", "/events": "login?to=events"}  # each page with its login URL
STREAMS = "/stream/"
ADMITTED = "tridetr.admitted"  # in the scope of a request that passed all checks
TAKE_BASIC = ("/snapshot/", STREAMS)  # paths that accept Basic authorization

HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' blob:",
            "media-src 'self'",
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
    # Not "no-referrer": with it, browsers post the login form with "Origin: null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}

# Rate per second and burst.
_REQUESTS = (50.0, 400.0)  # of one site; enough to load a page with 64 cameras
_FAILURES = (0.2, 10.0)  # wrong tokens from one site
_ALL_FAILURES = (2.0, 100.0)  # wrong tokens from all sites together
_WARN_S = 60.0


def problem(status: int, text: str, **headers: str) -> Response:
    """Return a JSON error response.

    Args:
        status: HTTP status code.
        text: error message.
        headers: further headers; underscores in their names stand for hyphens.
    """
    response = jsonify({"error": text})
    response.status_code = status
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response


class Guard:
    """Checks every request and WebSocket before it is handled.

    Args:
        auth: checks the token.
        sessions: login sessions; None if no token is configured.
        section: the gateway's configuration.
    """

    def __init__(
        self, auth: TokenAuth, sessions: LoginSessions | None, section: GatewaySection
    ) -> None:
        self.auth = auth
        self._sessions = sessions
        self._allowed_origins = section.allowed_origins
        self._proxies = Proxies(section.trusted_proxies)
        self._headers = headers_for(section.frame_ancestors)
        self._is_framed = bool(section.frame_ancestors)
        self._requests = PeerBuckets(*_REQUESTS)
        self._failures = PeerBuckets(*_FAILURES)
        self._all_failures = Bucket(*_ALL_FAILURES)
        self._warned_at: dict[str, float] = {}
        # By session ID, while streams use them
        self._logged_out: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def install(self, app: Quart) -> None:
        """Add the checks and headers to every route of ``app``."""
        app.before_request(self.check_request)
        app.before_websocket(self.check_websocket)
        app.after_request(self.finish)
        app.after_websocket(self.finish_websocket)
        app.register_error_handler(HTTPException, _http_problem)

    async def check_request(self) -> Answer | None:
        """Return a refusal or a redirect to the login; None if the request may pass."""
        refused = self._check_host(request)
        if refused is None and request.method not in ("GET", "HEAD", "OPTIONS"):
            refused = self._check_origin(request)
        # Not rate-limited, so that other requests from the same address cannot block them; they cost very little.
        if (
            refused is not None
            or request.path in OPEN_PATHS
            or request.path.startswith(OPEN_PREFIX)
        ):
            return refused
        if (
            request.path in PAGES
            and self.auth.required
            and not request.headers.get("Authorization")
            and self._session(request) is None
        ):
            return redirect(PAGES[request.path], 303)
        refused = self._check_token(request, ()) or self._check_rate(request)
        if refused is None:
            request.scope[ADMITTED] = True
        return refused

    async def check_websocket(self) -> Answer | None:
        """Return a refusal before a WebSocket is accepted; None if it may pass."""
        return (
            self._check_host(websocket)
            or self._check_origin(websocket)
            or self._check_token(websocket, websocket.requested_subprotocols)
            or self._check_rate(websocket)
        )

    def log_in(self, token: str) -> Answer | None:
        """Return a refusal; None if ``token`` is correct."""
        if self.auth.is_token(token):
            return None
        return self._charge_failure(request) or problem(401, "wrong token")

    def set_session(self, response: Answer, renewed: LoginSession | None = None) -> None:
        """Set the cookie of a new or renewed session."""
        if self._sessions is None:
            return
        # Anyone can send this header: use it for nothing but the cookie's flags.
        is_https = request.is_secure or request.headers.get("X-Forwarded-Proto", "") == "https"
        response.set_cookie(
            COOKIE,
            self._sessions.issue(time.time(), renewed),
            max_age=SESSION_S,
            path=None,  # folder of the login page, to separate the sessions of nodes behind one proxy
            secure=is_https,
            httponly=True,
            # In a frame of another site, browsers send only cookies with "None". The origin check protects WebSockets
            # and requests that change something in any case.
            samesite="None" if is_https and self._is_framed else "Strict",
        )

    async def log_out(self, response: Answer) -> None:
        """End the session of the current request on the server and delete its cookie."""
        session = self._session(request)
        if session is not None and self._sessions is not None:
            saved = asyncio.wrap_future(self._sessions.end(session, time.time()))
            if (logged_out := self._logged_out.get(session.id)) is not None:
                logged_out.set()
            if not (await asyncio.wait([saved], timeout=PATIENCE_S))[0]:
                logger.warning(
                    "%s: a session that was logged out is valid again if the gateway is restarted now",
                    DiskStalledError(),
                )
        response.delete_cookie(COOKIE, path=None, httponly=True, samesite="Strict")

    def logged_out(self, asked: Request | Websocket) -> asyncio.Event:
        """Return an event that is set when the session of a request ends; never, if the request has none."""
        session = self._session(asked)
        if session is None:
            return asyncio.Event()
        return self._logged_out.setdefault(session.id, asyncio.Event())

    async def finish(self, response: Answer) -> Answer:
        """Add the security headers to a response, and renew the session when a page is loaded."""
        for name, value in self._headers.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-store")
        if request.path in PAGES:
            session = self._session(request)
            if session is not None and session.is_due(time.time()):
                self.set_session(response, session)
        return response

    async def finish_websocket(self, response: Answer | None) -> Answer | None:
        """Add the security headers to a refused WebSocket, and log the reason, which browsers do not show."""
        if response is not None:
            for name, value in self._headers.items():
                response.headers.setdefault(name, value)
            reason = (await response.get_data()).decode(errors="replace")[:300].strip()  # type: ignore[misc]  # Werkzeug's is not async
            site = site_of(self._proxies.address(websocket))
            self._warn(
                f"websocket {response.status_code}",
                "refused a WebSocket from %s with status %d: %s",
                site,
                response.status_code,
                reason,
            )
        return response

    def _check_host(self, asked: Request | Websocket) -> Answer | None:
        # With a token, a page that uses DNS rebinding gains nothing: the cookie belongs to another host name.
        if self.auth.required:
            return None
        # Both: a page can set X-Forwarded-Host itself, and not every proxy removes it.
        hosts = asked.headers.get("Host", ""), self._proxies.host(asked)
        host = next(
            (name for name in hosts if not is_host_trusted(name, self._allowed_origins)), None
        )
        if host is None:
            return None
        return problem(
            421,
            f"the host name {host[:100]!r} is not trusted. "
            "Add its origin to gateway.allowed_origins, or set gateway.token_file.",
        )

    def _check_origin(self, asked: Request | Websocket) -> Answer | None:
        origin = asked.headers.get("Origin")
        if origin is None:  # not a browser
            return None
        host = self._proxies.host(asked)
        if is_origin_allowed(origin.lower(), host, self._allowed_origins):
            return None
        return problem(
            403,
            f"the page's origin {origin[:100]!r} does not match the host {host[:100]!r}. A reverse proxy must pass "
            "the Host header on (nginx: `proxy_set_header Host $http_host;`); otherwise add the origin to "
            "gateway.allowed_origins.",
        )

    def _session(self, asked: Request | Websocket) -> LoginSession | None:
        if self._sessions is None:
            return None
        # Not `asked.cookies`: it takes 10 µs for each cookie, and services on other ports may have set many.
        found = _SESSION_COOKIE.search("; ".join(asked.headers.getlist("Cookie")))
        return self._sessions.check(found[1] if found else "", time.time())

    def _check_token(
        self, asked: Request | Websocket, subprotocols: list[str] | tuple[()]
    ) -> Answer | None:
        if not self.auth.required or self._session(asked) is not None:
            return None
        header = asked.headers.get("Authorization", "")
        takes_basic = asked.path.startswith(TAKE_BASIC)
        # Compare before counting: wrong tokens from the same address must never lock out the correct one.
        if (
            self.auth.is_bearer(header)
            or self.auth.is_subprotocol(subprotocols)
            or (takes_basic and self.auth.is_basic(header))
        ):
            return None
        if header or any(name != PROTOCOL for name in subprotocols):
            refused = self._charge_failure(asked)
            if refused is not None:
                return refused
        schemes = ['Bearer realm="tridetr"', *(['Basic realm="tridetr"'] if takes_basic else [])]
        if asked.path.startswith(STREAMS):
            schemes.reverse()  # FFmpeg uses the first scheme only
        return problem(401, "a token is required", WWW_Authenticate=", ".join(schemes))

    def _charge_failure(self, asked: Request | Websocket) -> Answer | None:
        """Count a wrong token; return a refusal if there were too many."""
        metrics.WRONG_TOKENS.inc()
        address, now = self._proxies.address(asked), time.monotonic()
        self._warn("token", "wrong gateway token from %s", address)
        own = self._failures.of(site_of(address))
        for bucket in (own, self._all_failures):
            if bucket.is_empty(now):
                return _too_many(bucket.wait_s())
        own.take(now)
        self._all_failures.take(now)
        return None

    def _check_rate(self, asked: Request | Websocket) -> Answer | None:
        bucket = self._requests.of(site_of(self._proxies.address(asked)))
        return None if bucket.take(time.monotonic()) else _too_many(bucket.wait_s())

    def _warn(self, kind: str, text: str, *values: object) -> None:
        """Log a warning, at most once a minute per kind."""
        now = time.monotonic()
        if now - self._warned_at.get(kind, -_WARN_S) >= _WARN_S:
            self._warned_at[kind] = now
            logger.warning(text, *values)


def headers_for(frame_ancestors: tuple[str, ...]) -> dict[str, str]:
    """Return the security headers; pages of ``frame_ancestors`` may show the viewer in a frame."""
    headers = dict(HEADERS)
    if frame_ancestors:
        names = " ".join("'self'" if name == "self" else name for name in frame_ancestors)
        policy = headers["Content-Security-Policy"]
        headers["Content-Security-Policy"] = policy.replace(
            "frame-ancestors 'none'", f"frame-ancestors {names}"
        )
        del headers["X-Frame-Options"]  # it cannot express a list
    return headers


def _too_many(wait_s: float) -> Answer:
    return problem(429, "too many requests", Retry_After=str(max(1, round(wait_s))))


async def _http_problem(error: HTTPException) -> Answer:
    response = problem(error.code or 500, error.description or error.name)
    if error.code == 405:
        methods = getattr(error, "valid_methods", None) or ()
        response.headers["Allow"] = ", ".join(sorted(methods))
    return response
