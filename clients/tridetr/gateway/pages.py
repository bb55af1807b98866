"""Routes of the viewer's pages, scripts, login and error page: a fixed set of files, read once at startup."""

from __future__ import annotations

import hashlib
import html
from dataclasses import dataclass
from http import HTTPStatus
from importlib import resources
from string import Template

from quart import Blueprint, Quart, Response, abort, redirect, request

from tridetr.gateway.security import Answer, Guard

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
_MAX_ACCEPT = 1024  # characters; longer headers are not those of browsers, and not parsed
_WRONG = "Wrong token. Try again."
_SLOW = "Too many wrong tokens. Wait a minute, then try again."


@dataclass(frozen=True, slots=True)
class Asset:
    """One static file."""

    body: bytes
    content_type: str
    etag: str


def load_assets() -> dict[str, Asset]:
    """Read the static files; return them by name. Requests can only select a key of this dictionary."""
    assets = {}
    for item in resources.files("tridetr.gateway").joinpath("static").iterdir():
        suffix = item.name[item.name.rfind(".") :]
        if item.is_file() and suffix in _TYPES:
            body = item.read_bytes()
            assets[item.name] = Asset(body, _TYPES[suffix], hashlib.sha256(body).hexdigest()[:32])
    return assets


def version_of(assets: dict[str, Asset]) -> str:
    """Return an ID for this version of the pages, so that an open page knows when to reload."""
    text = "".join(f"{name}{assets[name].etag}" for name in sorted(assets))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _respond(asset: Asset) -> Response:
    if request.if_none_match.contains(asset.etag):
        response = Response("", status=304)
    else:
        response = Response(asset.body, content_type=asset.content_type)
    response.set_etag(asset.etag)
    response.headers["Cache-Control"] = "no-cache"
    return response


def _fill(asset: Asset, status: int = 200, **texts: str) -> Response:
    escaped = {name: html.escape(text) for name, text in texts.items()}
    body = Template(asset.body.decode()).substitute(escaped)
    return Response(body, status=status, content_type=asset.content_type)


def _asked_page() -> str:
    """Return the relative URL of the page to open after the login."""
    return "events" if request.args.get("to") == "events" else "."


def _wants_html() -> bool:
    # Parsing takes 25 µs per type; browsers send about ten
    if len(request.headers.get("Accept", "")) > _MAX_ACCEPT:
        return False
    accepted = request.accept_mimetypes
    return accepted["text/html"] > accepted["application/json"]


def add_pages(app: Quart, guard: Guard, assets: dict[str, Asset]) -> None:
    """Add the routes of the pages. All URLs are relative, so that a proxy may add a path prefix."""
    pages = Blueprint("pages", __name__)

    @pages.get("/")
    async def index() -> Answer:
        return _respond(assets["index.html"])

    @pages.get("/events")
    async def events() -> Answer:
        return _respond(assets["events.html"])

    @pages.get("/static/<name>")
    async def static(name: str) -> Answer:
        if name not in assets:
            abort(404)
        return _respond(assets[name])

    @pages.get("/login")
    async def login_page() -> Answer:
        return (
            _fill(assets["login.html"], note="")
            if guard.auth.required
            else redirect(_asked_page(), 303)
        )

    @pages.post("/login")
    async def login() -> Answer:
        if not guard.auth.required:
            return redirect(_asked_page(), 303)
        form = await request.form
        refused = guard.log_in(form.get("token", "").strip())
        if refused is not None:
            if not _wants_html():
                return refused
            note = _SLOW if refused.status_code == 429 else _WRONG
            return _fill(assets["login.html"], refused.status_code, note=note)
        response = redirect(_asked_page(), 303)
        guard.set_session(response)
        return response

    @pages.post("/logout")
    async def logout() -> Answer:
        response = redirect("login", 303)
        await guard.log_out(response)
        return response

    @app.after_request
    async def explain(response: Answer) -> Answer:
        """Show browsers an error page instead of JSON."""
        if (
            response.status_code < 400
            or response.mimetype != "application/json"
            or not _wants_html()
        ):
            return response
        error = (await response.get_json()).get("error")
        if error is None:  # the answer of /readyz
            return response
        status = response.status_code
        page = _fill(
            assets["error.html"],
            status,
            title=HTTPStatus(status).phrase,
            text=error[:1].upper() + error[1:],
            root="../" * (request.path.count("/") - 1) or "./",
        )
        for name, value in response.headers.items():
            if name.lower() not in ("content-type", "content-length"):
                page.headers[name] = value
        return page

    app.register_blueprint(pages)
