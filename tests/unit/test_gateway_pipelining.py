"""Pipelined requests of a client that ends its connection."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from quart import Quart

from tridetr.gateway.connection import Limits
from tridetr.gateway.http_server import serve
from tridetr.gateway.listener import listen

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
# Longer than a test may take: responses that can still be sent are never cut off
PATIENT = Limits(connections=10, grace_s=600)


async def pipeline(
    requests: int, end: Callable[[socket.socket], None], at: int
) -> tuple[int, bytes]:
    """Pipeline requests and end the connection while the application handles one of them.

    Returns:
        How many requests the application handled, and what the client received.
    """
    handled = 0
    client, ended = socket.socket(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def application(
        scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        nonlocal handled
        handled += 1
        if handled == at:
            end(client)
            ended.set()
            while (await receive())["type"] != "http.disconnect":
                pass
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    with listen("127.0.0.1", 0) as listener, client:
        client.setblocking(False)
        stop = asyncio.Event()
        before = asyncio.all_tasks()
        serving = asyncio.create_task(serve(cast(Quart, application), listener, stop, PATIENT))
        await loop.sock_connect(client, listener.getsockname())
        await loop.sock_sendall(client, REQUEST * requests)
        received = b""
        await ended.wait()
        while client.fileno() >= 0 and (part := await loop.sock_recv(client, 65536)):
            received += part
        while others := asyncio.all_tasks() - before - {serving}:
            await asyncio.wait(others)  # also those that no connection waits for
        stop.set()
        await serving
    return handled, received


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize("end", [reset, socket.socket.close], ids=["reset", "closed"])
async def test_requests_of_a_connection_that_has_ended_are_not_handled(
    end: Callable[[socket.socket], None],
) -> None:
    """All pipelined ones were: after a few hundred such connections, probes waited for minutes."""
    handled, _ = await pipeline(1000, end, at=3)
    assert 3 <= handled <= 5


async def test_a_client_that_has_sent_everything_gets_all_responses() -> None:
    handled, received = await pipeline(5, lambda client: client.shutdown(socket.SHUT_WR), at=1)
    assert handled == 5
    assert received.count(b"HTTP/1.1 200") == 5
