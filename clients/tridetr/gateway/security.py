"""Every request and answer passes here: host, origin, token, rate; and the headers that bind browsers."""

from __future__ import annotations

import logging
import time
from typing import TypeAlias

from quart import Quart, Response, jsonify, redirect, request, websocket
from quart.wrappers import Request, Websocket
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse

from tridetr.config import GatewaySection
from tridetr.gateway.auth import TokenAuth
from tridetr.gateway.clients import Proxies, site_of
from tridetr.gateway.limits import Bucket, PeerBuckets
from tridetr.gateway.login_sessions import COOKIE, SESSION_S, LoginSession, LoginSessions
from tridetr.gateway.message import PROTOCOL
from tridetr.gateway.origins import is_host_trusted, is_origin_allowed
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.gateway")
Answer: TypeAlias = Response | WerkzeugResponse
# Open without a token: probes, the login page, and the viewer's own code (which is public anyway).
OPEN_PATHS = ("/healthz", "/readyz", "/login")
OPEN_PREFIX = "/static/"
PAGES = {"/": "login", "/events": "login?to=events"}  # with the login that leads back to each
STREAMS = "/stream/"
TAKE_BASIC = ("/snapshot/", STREAMS)  # for clients that know nothing else

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
    # Not "no-referrer": browsers then post the login form with "Origin: null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}

_REQUESTS = (50.0, 400.0)  # a second, at once: a page with 64 cameras loads in one go
_FAILURES = (0.2, 10.0)  # wrong tokens of one site
_ALL_FAILURES = (2.0, 100.0)  # wrong tokens of all sites together
_WARN_S = 60.0


def problem(status: int, text: str, **headers: str) -> Response:
    """Return a JSON error."""
    response = jsonify({"error": text})
    response.status_code = status
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response


class Guard:
    """Decides who is let in.

    Args:
        auth: the token.
        sessions: logins with it; None where there is no token.
        section: the gateway's configuration.
    """

    def __init__(
        self,
        auth: TokenAuth,
        sessions: LoginSessions | None,
        section: GatewaySection,
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

    def install(self, app: Quart) -> None:
        """Put the guard in front of every route of ``app``."""
        app.before_request(self.check_request)
        app.before_websocket(self.check_websocket)
        app.after_request(self.finish)
        app.after_websocket(self.finish_websocket)
        app.register_error_handler(HTTPException, _http_problem)

    async def check_request(self) -> Answer | None:
        """Refuse a request, or let it pass (None)."""
        refused = self._check_host(request)
        if refused is None and request.method not in ("GET", "HEAD", "OPTIONS"):
            refused = self._check_origin(request)
        # Always answered, whatever else comes from the same address: they cost next to nothing.
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
        return self._check_token(request, ()) or self._check_rate(request)

    async def check_websocket(self) -> Answer | None:
        """Refuse a WebSocket before it is accepted, or let it pass (None)."""
        return (
            self._check_host(websocket)
            or self._check_origin(websocket)
            or self._check_token(websocket, websocket.requested_subprotocols)
            or self._check_rate(websocket)
        )

    def log_in(self, token: str) -> Answer | None:
        """Return a refusal, or None when ``token`` is right."""
        if self.auth.is_token(token):
            return None
        return self._charge_failure(request) or problem(401, "this is not the token")

    def set_session(self, response: Answer, renewed: LoginSession | None = None) -> None:
        """Give the browser a cookie of a new session, or of the renewed one."""
        if self._sessions is None:
            return
        # The header may come from anyone: it decides nothing but the cookie's flags.
        is_https = request.is_secure or request.headers.get("X-Forwarded-Proto", "") == "https"
        response.set_cookie(
            COOKIE,
            self._sessions.issue(time.time(), renewed),
            max_age=SESSION_S,
            path=None,  # the folder of the login page: nodes behind one proxy keep their sessions apart
            secure=is_https,
            httponly=True,
            # In a frame of another site only this kind is sent; requests that change something, and WebSockets,
            # are bound to their origin in any case.
            samesite="None" if is_https and self._is_framed else "Strict",
        )

    def log_out(self, response: Answer) -> None:
        """End the session of this request, in the browser and here."""
        session = self._session(request)
        if session is not None and self._sessions is not None:
            self._sessions.end(session, time.time())
        response.delete_cookie(COOKIE, path=None, httponly=True, samesite="Strict")

    async def finish(self, response: Answer) -> Answer:
        """Add the headers that every answer carries, and renew the session with the page."""
        for name, value in self._headers.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-store")
        if request.path in PAGES:
            session = self._session(request)
            if session is not None and session.is_due(time.time()):
                self.set_session(response, session)
        return response

    async def finish_websocket(self, response: Answer | None) -> Answer | None:
        """Add the headers to refusals, and log them: browsers hide the reason from the page and its user."""
        if response is not None:
            for name, value in self._headers.items():
                response.headers.setdefault(name, value)
            reason = (await response.get_data()).decode(errors="replace")[:300].strip()  # type: ignore[misc]
            site = site_of(self._proxies.address(websocket))
            self._warn(
                f"websocket {response.status_code}",
                "refused a WebSocket of %s with status %d: %s",
                site,
                response.status_code,
                reason,
            )
        return response

    def _check_host(self, asked: Request | Websocket) -> Answer | None:
        host = self._proxies.host(asked)
        # With a token a foreign page has nothing to gain: the cookie belongs to another host name.
        if self.auth.required or is_host_trusted(host, self._allowed_origins):
            return None
        return problem(
            421,
            f"the host name {host[:100]!r} is not known to be this machine's. "
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
            f"a page of {origin[:100]!r} asked for host {host[:100]!r}. A reverse proxy must pass the Host header "
            "on (nginx: `proxy_set_header Host $http_host;`); otherwise add the origin to gateway.allowed_origins.",
        )

    def _session(self, asked: Request | Websocket) -> LoginSession | None:
        if self._sessions is None:
            return None
        return self._sessions.check(asked.cookies.get(COOKIE, ""), time.time())

    def _check_token(
        self, asked: Request | Websocket, subprotocols: list[str] | tuple[()]
    ) -> Answer | None:
        if not self.auth.required or self._session(asked) is not None:
            return None
        header = asked.headers.get("Authorization", "")
        takes_basic = asked.path.startswith(TAKE_BASIC)
        # First compared, then counted: wrong tokens of the same address never lock the right one out.
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
            schemes.reverse()  # FFmpeg looks at the first scheme only
        return problem(401, "a token is needed", WWW_Authenticate=", ".join(schemes))

    def _charge_failure(self, asked: Request | Websocket) -> Answer | None:
        """Count a wrong token; return a refusal where there were too many."""
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
        """Log a warning, at most once a minute for each kind."""
        now = time.monotonic()
        if now - self._warned_at.get(kind, -_WARN_S) >= _WARN_S:
            self._warned_at[kind] = now
            logger.warning(text, *values)


def headers_for(frame_ancestors: tuple[str, ...]) -> dict[str, str]:
    """Return the headers that bind browsers; ``frame_ancestors``: whose pages may show the viewer in a frame."""
    headers = dict(HEADERS)
    if frame_ancestors:
        names = " ".join("'self'" if name == "self" else name for name in frame_ancestors)
        policy = headers["Content-Security-Policy"]
        headers["Content-Security-Policy"] = policy.replace(
            "frame-ancestors 'none'", f"frame-ancestors {names}"
        )
        del headers["X-Frame-Options"]  # it knows no list
    return headers


def _too_many(wait_s: float) -> Answer:
    return problem(429, "too many requests", Retry_After=str(max(1, round(wait_s))))


async def _http_problem(error: HTTPException) -> Answer:
    response = problem(error.code or 500, error.description or error.name)
    if error.code == 405:
        methods = getattr(error, "valid_methods", None) or ()
        response.headers["Allow"] = ", ".join(sorted(methods))
    return response
