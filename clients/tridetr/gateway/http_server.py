"""HTTP server: Hypercorn's HTTP/1.1 and WebSocket implementation with our own listener and limits.

Hypercorn's ``serve`` does not limit connections, waits indefinitely for a peer that does not read, offers
permessage-deflate (which spends 10 ms on a JPEG without making it smaller) and supports HTTP/2, whose flow-control
windows would hide a stalled peer. This module therefore accepts the connections itself and monitors their progress.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from typing import Any, cast

from hypercorn.config import Config as HypercornConfig
from quart import Quart

from tridetr.gateway.connection import Connection, Limits, PeerProtocol
from tridetr.gateway.message import MAX_COMMAND_BYTES


def _make_room(connections: list[Connection], limit: int) -> bool:
    """Abort an old connection if the limit is reached; return whether there is room for another.

    Accepted viewers stay: ``gateway.max_viewers`` limits them. All other requests are short, so the oldest connection
    of the site with the most connections is the most likely to be idle. Probes thus always get a connection.
    """
    live = [connection for connection in connections if not connection.is_aborted]
    if len(live) < limit:
        return True
    others = [connection for connection in live if not connection.is_viewer]
    if not others:
        return False
    counts = Counter(connection.site for connection in others)
    most = max(counts.values())
    next(connection for connection in others if counts[connection.site] == most).abort()
    return True


def _hypercorn_config(limits: Limits) -> HypercornConfig:
    config = HypercornConfig()
    config.errorlog = logging.getLogger("tridetr.gateway.http")
    config.accesslog = None
    config.include_server_header = False
    config.websocket_max_message_size = 4 * MAX_COMMAND_BYTES
    config.websocket_ping_interval = limits.ping_s
    return config


async def serve(app: Quart, listener: socket.socket, stop: asyncio.Event, limits: Limits) -> None:
    """Serve ``app`` on ``listener`` until ``stop`` is set, then close all connections within about a second."""
    config = _hypercorn_config(limits)
    open_now: dict[asyncio.Task[Any], Connection] = {}

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not _make_room(list(open_now.values()), limits.connections):
            writer.transport.abort()
            return
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        connection = Connection(limits, app, config, reader, writer)
        open_now[task] = connection
        try:
            await connection.run()
        except asyncio.CancelledError:
            pass  # only the shutdown below cancels this task
        finally:
            del open_now[task]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: PeerProtocol(asyncio.StreamReader(), accept), sock=listener
    )
    try:
        await stop.wait()
    finally:
        server.close()
        for connection in open_now.values():
            await connection.context.terminated.set()
        if open_now:
            await asyncio.wait(list(open_now), timeout=limits.grace_s)
        for connection in list(open_now.values()):
            connection.abort()
        for task in list(open_now):
            task.cancel()
        if open_now:
            await asyncio.wait(list(open_now), timeout=limits.grace_s)
