"""Malformed requests and early disconnects: none leaves a viewer behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from pathlib import Path

import pytest
from hypercorn.config import Config as HypercornConfig
from quart import Quart

from support.gateway import Gateway, cameras
from support.waiting import wait_for
from tridetr.gateway.connection import Connection, Limits, PeerProtocol

QUICK = Limits(connections=300, stall_s=0.5)
UPGRADE = (
    b"GET /ws/hall HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
STREAM = b" /stream/hall.mjpeg HTTP/1.1\r\nHost: localhost\r\n"
SECOND = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: "
REQUESTS = {
    "bytes after a handshake": UPGRADE + b"\r\ntoken=%ff",
    "frame after a handshake": UPGRADE + b"\r\n\x81\x82\0\0\0\0hi",
    "handshake with a body": UPGRADE + b"Content-Length: 5\r\n\r\nhello",
    "handshake with a chunked body": UPGRADE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "two handshakes": (UPGRADE + b"\r\n") * 2,
    "stream": b"GET" + STREAM + b"\r\n",
    "stream with HEAD": b"HEAD" + STREAM + b"\r\n",
    "stream with an upgrade": b"GET" + STREAM + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "HEAD with an upgrade": b"HEAD" + STREAM + b"Upgrade: websocket\r\n\r\n",
    "upgrade and more": b"GET"
    + STREAM
    + b"Upgrade: x\r\nConnection: Upgrade\r\n\r\n"
    + b"x" * 9000,
    "stream and a second request": b"GET" + STREAM + b"\r\n" + SECOND + b"\r\n\r\n",
    "stream and many more": b"GET" + STREAM + b"\r\n" + SECOND + b"x" * 400_000,
    "stream with a body": b"GET" + STREAM + b"Content-Length: 50\r\n\r\nabc",
    "stream with a broken body": b"GET" + STREAM + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("ending", ["close", "reset", "half"])
def test_no_request_leaves_a_viewer_behind(
    tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A camera without pictures: the gateway sends nothing that would show it that the peer is gone."""
    with cameras(tmp_path, "hall") as (config, _), Gateway(config, QUICK) as gateway:
        clients = []
        for request in REQUESTS.values():
            clients.append(client := socket.create_connection(("127.0.0.1", gateway.port)))
            client.settimeout(0.05)
            with contextlib.suppress(OSError):
                client.sendall(request)
        wait_for(lambda: viewers_of(gateway) > 3, what="the streams")
        for client in clients:
            with contextlib.suppress(OSError):
                if ending == "half":
                    client.shutdown(socket.SHUT_WR)
                    continue
                if ending == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
        wait_for(lambda: viewers_of(gateway) == 0, what="the viewers' end")
        for client in clients:
            client.close()
    assert "ERROR" not in caplog.text


@pytest.mark.parametrize("request_", [UPGRADE + b"\r\n", b"GET" + STREAM + b"\r\n"])
def test_network_error_ends_a_stream_quietly(
    tmp_path: Path,
    request_: bytes,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A telephone that leaves the Wi-Fi: the kernel reports other errors than a closed connection."""
    unreachable = OSError(errno.EHOSTUNREACH, "No route to host")
    monkeypatch.setattr(
        PeerProtocol, "eof_received", lambda self: self._transport._force_close(unreachable)
    )
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config, QUICK) as gateway:
        fakes["hall"].play()
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=15) as client:
            client.sendall(request_)
            wait_for(lambda: b"\xff\xd8" in client.recv(2**16), what="a picture")
            client.shutdown(socket.SHUT_WR)
            wait_for(lambda: viewers_of(gateway) == 0, what="the viewer's end")
    assert "ERROR" not in caplog.text


@pytest.mark.parametrize(
    "request_", [UPGRADE + b"\r\ntoken=%ff", UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n"]
)
def test_connection_of_a_refused_websocket_is_closed(tmp_path: Path, request_: bytes) -> None:
    with (
        cameras(tmp_path, "hall") as (config, _),
        Gateway(config, QUICK) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port), timeout=15) as client,
    ):
        client.sendall(request_)
        answer = b""
        while received := client.recv(65536):
            answer += received
        assert answer.startswith(b"HTTP/1.1 400")


def viewers_of(gateway: Gateway) -> int:
    return int(gateway.ask("/api/cameras").json()["cameras"][0]["viewers"])


async def test_a_connection_that_ended_can_be_aborted() -> None:
    """Downloads of clips ended in AttributeErrors from asyncio, after the rest of their data was sent."""
    accepted: asyncio.Queue[Connection] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accepted.put(Connection(QUICK, Quart("app"), HypercornConfig(), reader, writer))

    server = await asyncio.get_running_loop().create_server(
        lambda: PeerProtocol(asyncio.StreamReader(), accept), "127.0.0.1"
    )
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        connection = await accepted.get()
        connection.writer.write(bytes(16 << 20))
        assert connection.writer.transport.get_write_buffer_size()
        connection.writer.close()
        assert len(await reader.read()) == 16 << 20
        await connection.writer.wait_closed()
        connection.abort()
        writer.close()
