"""HTTP server: Hypercorn's HTTP/1.1 and WebSocket implementation with our own listener and limits.

Hypercorn's ``serve`` does not limit connections, waits indefinitely for a peer that does not read, offers
permessage-deflate (which spends 10 ms on a JPEG without making it smaller) and supports HTTP/2, whose flow-control
windows would hide a stalled peer. This module therefore accepts the connections itself and monitors their progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData
from hypercorn.typing import ConnectionState
from quart import Quart

from tridetr.errors import GatewayError
from tridetr.gateway.clients import parse_address, site_of
from tridetr.gateway.http1 import Context, Http1
from tridetr.gateway.limits import Bucket
from tridetr.gateway.message import MAX_COMMAND_BYTES

logger = logging.getLogger("tridetr.gateway")

_MAX_RECEIVE = 2**16
# A viewer sends commands of a few hundred bytes. Empty WebSocket frames cost as much as commands but are not counted as
# such, so a viewer's data is not read faster than this.
_VIEWER_BYTES_S, _VIEWER_BURST = 2**15, 2**14
_VIEWER_RECEIVE = 2**12
_SEND_BUFFER = 512 * 1024  # kernel buffer; a larger one only means older pictures for slow viewers
_PROGRESS = 64 * 1024  # bytes that a peer must receive within the stall time


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the connections of a gateway.

    Attributes:
        connections: maximum number of connections.
        stall_s: seconds after which a peer that receives almost nothing is disconnected.
        silence_s: seconds after which a peer that sends nothing (not even pongs) is disconnected.
        ping_s: interval of WebSocket pings in seconds.
        grace_s: seconds at shutdown for responses that are still being sent.
    """

    connections: int
    stall_s: float = 10.0
    silence_s: float = 30.0
    ping_s: float = 10.0
    grace_s: float = 0.5


class Connection(TCPServer):  # type: ignore[misc]  # untyped
    """One accepted connection."""

    def __init__(
        self,
        limits: Limits,
        app: ASGIWrapper,
        config: HypercornConfig,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(app, loop, config, Context(), {}, reader, writer)
        self._limits = limits
        self.is_aborted = False
        self._received = Bucket(rate=_VIEWER_BYTES_S, burst=_VIEWER_BURST)
        peer = _address(writer.get_extra_info("peername"))
        self.site = site_of(parse_address(peer[0])) if peer else "local"

    @property
    def is_viewer(self) -> bool:
        """Whether this is an accepted WebSocket or HTTP stream."""
        protocol = getattr(self, "protocol", None)
        return isinstance(protocol, Http1) and (protocol.is_websocket or protocol.is_streaming)

    async def run(self) -> None:
        """Serve the connection until it ends."""
        client = _address(self.writer.get_extra_info("peername"))
        server = _address(self.writer.get_extra_info("sockname"))
        try:
            async with TaskGroup(self.loop) as tasks:
                self._task_group = tasks
                http = Http1(
                    self.app,
                    self.config,
                    self.context,
                    tasks,
                    ConnectionState(self.state),
                    False,
                    client,
                    server,
                    self.protocol_send,
                )
                http.cut_off = self.abort
                # Declared as Hypercorn's ProtocolWrapper, of which only `handle` is used.
                self.protocol = cast(Any, http)
                await self.idle_task.restart(tasks, self._idle_timeout)
                await self._read_data()
                self.context.closed.set()
        except OSError:
            pass
        finally:
            await self._close()

    async def _read_data(self) -> None:
        """Read from the peer until it closes or is silent for too long; clients of HTTP streams may be silent."""
        http = cast(Http1, self.protocol)
        while not self.reader.at_eof():
            most = _VIEWER_RECEIVE if http.is_websocket else _MAX_RECEIVE
            try:
                data = await asyncio.wait_for(self.reader.read(most), self._limits.silence_s)
            except (TimeoutError, asyncio.TimeoutError):
                if http.is_streaming:
                    continue
                break
            except OSError:
                break
            await self.protocol.handle(RawData(data))
            if http.is_websocket:
                wait_s = self._received.spend(asyncio.get_running_loop().time(), len(data))
                if wait_s:
                    await asyncio.sleep(wait_s)
        await self.protocol.handle(Closed())

    async def protocol_send(self, event: Event) -> None:
        """Send data, and abort the connection if the peer does not read it."""
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            if self.writer.transport.is_closing():
                await self.protocol.handle(Closed())
                return
            try:
                self.writer.write(event.data)
                while not await self._drained():
                    pass
            except (ConnectionError, RuntimeError):
                await self.protocol.handle(Closed())

    async def _drained(self) -> bool:
        transport = self.writer.transport
        before = transport.get_write_buffer_size()
        if before == 0:
            await self.writer.drain()
            return True
        draining = asyncio.ensure_future(self.writer.drain())
        # Not `wait_for`: before Python 3.12 it swallows a cancellation that arrives together with the result.
        try:
            done, _ = await asyncio.wait({draining}, timeout=self._limits.stall_s)
        finally:
            draining.cancel()
        if done:
            draining.result()
            return True
        if before - transport.get_write_buffer_size() < min(before, _PROGRESS):
            logger.info("disconnected a client that does not read")
            transport.abort()
            raise ConnectionAbortedError("the peer does not read")
        return False

    def abort(self) -> None:
        """Abort the connection."""
        self.is_aborted = True
        self.writer.transport.abort()

    async def _close(self) -> None:
        # Closing waits until the peer has read the rest of the buffer: limit that wait.
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(super()._close(), self._limits.stall_s)
        self.abort()


def _address(name: Any) -> tuple[str, int] | None:
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        GatewayError: the address is in use, not an address of this machine, or not permitted.
    """
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(info[0], socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Accepted sockets inherit both
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.bind(info[4])
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise GatewayError(
            f"the viewer cannot listen on {host} port {port}: {error.strerror or error}. "
            "Set gateway.host to an address of this machine, and gateway.port to a free port (0 = any)"
        ) from error
    listener.setblocking(False)
    return listener


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
    wrapped = ASGIWrapper(cast(Any, app))
    open_now: dict[asyncio.Task[Any], Connection] = {}

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not _make_room(list(open_now.values()), limits.connections):
            writer.transport.abort()
            return
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        connection = Connection(limits, wrapped, config, reader, writer)
        open_now[task] = connection
        try:
            await connection.run()
        except asyncio.CancelledError:
            pass  # only the shutdown below cancels this task
        finally:
            del open_now[task]

    server = await asyncio.start_server(accept, sock=listener)
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
