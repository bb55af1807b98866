"""The gateway process: serves the viewer and its API over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
from pathlib import Path

from tridetr.config import Config
from tridetr.config.secrets import GATEWAY_TOKEN_VARIABLE, gateway_token
from tridetr.files import write_text
from tridetr.gateway.app import create_app
from tridetr.gateway.clients import parse_address
from tridetr.gateway.connection import Limits
from tridetr.gateway.http_server import serve
from tridetr.gateway.hub import Hub
from tridetr.gateway.listener import inherited_or_new
from tridetr.ports import viewer_url

logger = logging.getLogger("tridetr.gateway")
ADDRESS_FILE = "gateway.json"
_OTHER_CONNECTIONS = 256  # in addition to the WebSockets: pages, snapshots, probes
_KEPT_DESCRIPTORS = 16  # for files, and connections that are being closed
_PER_CAMERA = 12  # descriptors: rings and their wake-ups
_FEWEST_CONNECTIONS = 4


def _write_address(path: Path, host: str, port: int) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = json.dumps(
        {"url": viewer_url(host, port), "host": host, "port": port, "pid": os.getpid()}
    )
    write_text(path, text)


def warn_of_open_access(config: Config) -> None:
    """Log a warning if the cameras are visible without a token, possibly by mistake."""
    if gateway_token(config) is not None:
        return
    if GATEWAY_TOKEN_VARIABLE in os.environ:
        logger.warning(
            "%s is set but empty: the viewer does not ask for a token", GATEWAY_TOKEN_VARIABLE
        )
    host = config.gateway.host
    address = parse_address(host)
    if host != "localhost" and (address is None or not address.is_loopback):
        logger.warning(
            "the viewer listens on %s without a token: anyone who can reach it can see the cameras. "
            "Set gateway.token_file, or keep the network private.",
            host or "all addresses",
        )


def connection_limit(config: Config) -> int:
    """Return how many connections fit: within the limit of descriptors, or no probe could connect any more.

    Raises this process's own limit if it is too low and the system allows that.
    """
    wanted = config.gateway.max_viewers + _OTHER_CONNECTIONS
    used = len(os.listdir("/proc/self/fd")) + _PER_CAMERA * len(config.cameras)  # noqa: PTH208
    descriptors, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = used + _KEPT_DESCRIPTORS + wanted
    if descriptors == resource.RLIM_INFINITY or descriptors >= needed:
        return wanted
    descriptors = needed if most == resource.RLIM_INFINITY else min(needed, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, most))
    room = max(_FEWEST_CONNECTIONS, wanted - (needed - descriptors))
    if room < wanted:
        logger.warning(
            "RLIMIT_NOFILE (ulimit -n) is %d: the viewer serves %d connections instead of %d",
            descriptors,
            room,
            wanted,
        )
    return room


async def run(config: Config, stop: asyncio.Event, *, limits: Limits | None = None) -> None:
    """Serve the viewer until ``stop`` is set.

    While it runs, ``run_dir/gateway.json`` holds its URL, for example if ``gateway.port`` is 0.

    Args:
        config: configuration of the node.
        stop: ends the gateway when it is set.
        limits: connection limits; None = derived from ``gateway.max_viewers``.

    Raises:
        GatewayError: the gateway cannot listen on the configured address.
        ConfigError: the token file cannot be read.
    """
    section = config.gateway
    listener = inherited_or_new(section.host, section.port)
    try:
        hub = Hub(config)
    except BaseException:
        listener.close()
        raise
    address_file = config.run_dir / ADDRESS_FILE
    try:
        app = create_app(hub, stop)
        port = int(listener.getsockname()[1])
        try:
            _write_address(address_file, section.host, port)
        except OSError as error:  # such as a full or read-only disk
            logger.warning("cannot write %s: %s", address_file, error.strerror or error)
        hub.start()
        logger.info("viewer at %s", viewer_url(section.host, port))
        warn_of_open_access(config)
        await app.startup()
        await serve(
            app,
            listener,
            stop,
            limits or Limits(connections=connection_limit(config)),
        )
    finally:
        listener.close()
        with contextlib.suppress(OSError):
            address_file.unlink(missing_ok=True)
        await hub.close()
