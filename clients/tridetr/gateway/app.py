"""Assemble the web application: access control, pages, HTTP API and streams."""

from __future__ import annotations

import asyncio
import logging
import time

from quart import Quart, Response, request
from quart.wrappers.response import DataBody

from tridetr.config.secrets import gateway_token
from tridetr.errors import ShmError
from tridetr.gateway.api import add_api
from tridetr.gateway.auth import TokenAuth
from tridetr.gateway.hub import Hub
from tridetr.gateway.login_sessions import LoginSessions
from tridetr.gateway.pages import add_pages, load_assets, version_of
from tridetr.gateway.parameters import BadParameterError
from tridetr.gateway.play import add_play
from tridetr.gateway.security import Answer, Guard, problem
from tridetr.gateway.stream import add_stream
from tridetr.gateway.visit_routes import add_visits
from tridetr.telemetry.logs import Limiter

logger = logging.getLogger("tridetr.gateway")
_MAX_BODY = 4096  # only the login form has one
_damage = Limiter(10.0)


async def _damaged(error: ShmError) -> Answer:
    if _damage.allow(time.monotonic()) is not None:
        logger.warning("%s", error)
    return problem(503, "the camera's shared memory is damaged", Retry_After="1")


async def _bad_parameter(error: BadParameterError) -> Answer:
    return problem(400, str(error))


async def _without_body(response: Answer) -> Answer:
    """Drop the body of the answer to HEAD, which Quart would send: it may be endless, or a large file."""
    if request.method == "HEAD":
        response.response = DataBody(b"") if isinstance(response, Response) else ()
    return response


def create_app(hub: Hub, stop: asyncio.Event) -> Quart:
    """Return the web application.

    Args:
        hub: the cameras of the node.
        stop: ends all streams when it is set.

    Raises:
        ConfigError: the token file cannot be read.
    """
    app = Quart("tridetr.gateway", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _MAX_BODY
    app.config["MAX_FORM_MEMORY_SIZE"] = _MAX_BODY
    app.config["BODY_TIMEOUT"] = 10
    app.config["RESPONSE_TIMEOUT"] = 60
    app.json.sort_keys = False  # type: ignore[attr-defined]  # Quart's default provider has it
    assets = load_assets()
    token = gateway_token(hub.config)
    sessions = LoginSessions(token, hub.config.state_dir) if token is not None else None
    guard = Guard(TokenAuth(token), sessions, hub.config.gateway)
    guard.install(app)
    app.after_request(_without_body)
    app.register_error_handler(ShmError, _damaged)
    app.register_error_handler(BadParameterError, _bad_parameter)
    add_pages(app, guard, assets)
    add_api(app, hub)
    add_visits(app, hub)
    add_play(app, hub, guard, stop)
    add_stream(app, hub, guard, stop, page_version=version_of(assets))
    return app
