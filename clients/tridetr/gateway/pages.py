"""The viewer's page, its scripts and the login: a fixed set of files, read once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from quart import Blueprint, Quart, Response, abort, redirect, request

from tridetr.gateway.auth import COOKIE
from tridetr.gateway.security import Answer, Guard

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page."""

    body: bytes
    content_type: str
    etag: str


def load_assets() -> dict[str, Asset]:
    """Read the files that may be served; a request only ever names a key of this dictionary."""
    assets = {}
    for item in resources.files("tridetr.gateway").joinpath("static").iterdir():
        suffix = item.name[item.name.rfind(".") :]
        if item.is_file() and suffix in _TYPES:
            body = item.read_bytes()
            assets[item.name] = Asset(body, _TYPES[suffix], hashlib.sha256(body).hexdigest()[:32])
    return assets


def version_of(assets: dict[str, Asset]) -> str:
    """Return a name for this version of the page, so that an open one knows when to load itself again."""
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


def add_pages(app: Quart, guard: Guard, assets: dict[str, Asset]) -> None:
    """Add the routes of the page."""
    pages = Blueprint("pages", __name__)

    @pages.get("/")
    async def index() -> Answer:
        return _respond(assets["index.html"])

    @pages.get("/static/<name>")
    async def static(name: str) -> Answer:
        if name not in assets:
            abort(404)
        return _respond(assets[name])

    @pages.get("/login")
    async def login_page() -> Answer:
        return _respond(assets["login.html"]) if guard.auth.required else redirect("/", 303)

    @pages.post("/login")
    async def login() -> Answer:
        if not guard.auth.required:
            return redirect("/", 303)
        form = await request.form
        refused = guard.login(form.get("token", "").strip())
        if refused is not None:
            if "text/html" in request.headers.get("Accept", ""):
                name = "login-slow.html" if refused.status_code == 429 else "login-wrong.html"
                page = Response(assets[name].body, content_type=_TYPES[".html"])
                page.status_code = refused.status_code
                return page
            return refused
        response = redirect("/", 303)
        guard.set_session(response)
        return response

    @pages.post("/logout")
    async def logout() -> Answer:
        response = redirect("/login", 303)
        response.delete_cookie(COOKIE, httponly=True, samesite="Strict")
        return response

    app.register_blueprint(pages)
