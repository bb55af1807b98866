"""One connection of the viewer: Hypercorn's protocol, and the application's tasks, which end with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import Any, cast

from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData
from hypercorn.typing import ConnectionState
from quart import Quart

from tridetr.gateway.clients import parse_address, site_of
from tridetr.gateway.http1 import Application, Context, Http1
from tridetr.gateway.limits import Bucket

logger = logging.getLogger("tridetr.gateway")

_MAX_RECEIVE = 2**16
# A viewer sends commands of a few hundred bytes. Empty WebSocket frames cost as much as commands but are not counted as
# such, so a viewer's data is not read faster than this.
_VIEWER_BYTES_S, _VIEWER_BURST = 2**15, 2**14
_VIEWER_RECEIVE = 2**12
_PROGRESS = 64 * 1024  # bytes that a peer must receive within the stall time


class PeerProtocol(asyncio.StreamReaderProtocol):
    """Notes when the peer ends the connection, even if what it sent before has not been read.

    Attributes:
        ended: set when the peer has closed its side, or the connection is gone.
        is_lost: whether the connection is gone.
    """

    def __init__(self, reader: asyncio.StreamReader, connected: Any) -> None:
        super().__init__(reader, connected)
        self.ended = asyncio.Event()
        self.is_lost = False

    def eof_received(self) -> bool | None:
        """Note that the peer has closed its side."""
        self.ended.set()
        return super().eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the connection is gone."""
        self.is_lost = True
        self.ended.set()
        super().connection_lost(error)


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
    """One accepted connection, whose transport has a ``PeerProtocol``."""

    def __init__(
        self,
        limits: Limits,
        app: Quart,
        config: HypercornConfig,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._peer = cast(PeerProtocol, writer.transport.get_protocol())
        self._ended = self._peer.ended
        wrapped, context = Application(app, self._ended), Context(self._ended)
        super().__init__(wrapped, loop, config, context, {}, reader, writer)
        self._limits = limits
        self.is_aborted = False
        self._received = Bucket(rate=_VIEWER_BYTES_S, burst=_VIEWER_BURST)
        peer = _address(writer.get_extra_info("peername"))
        self.site = site_of(parse_address(peer[0])) if peer else "local"

    @property
    def is_viewer(self) -> bool:
        """Whether this is an accepted WebSocket or HTTP stream, which needs a login if there is a token."""
        http = getattr(self, "protocol", None)
        return isinstance(http, Http1) and (http.is_websocket or http.is_admitted)

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
                http.is_gone = self.writer.transport.is_closing
                # Declared as Hypercorn's ProtocolWrapper, of which only `handle` is used.
                self.protocol = cast(Any, http)
                await self.idle_task.restart(tasks, self._idle_timeout)
                try:
                    await self._read_data()
                except OSError:
                    pass  # the connection has ended
                finally:
                    self._ended.set()  # the group waits for the application's tasks
                    await self.idle_task.stop()
        except Exception:  # of any kind, also a bug: one connection must not end the server
            await self.config.log.exception("a connection failed")
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
            await self._handle(RawData(data))
            if http.is_websocket:
                wait_s = self._received.spend(asyncio.get_running_loop().time(), len(data))
                if wait_s:
                    await asyncio.sleep(wait_s)
        self._ended.set()
        await self._handle(Closed())

    async def _handle(self, event: Event) -> None:
        """Pass an event to Hypercorn, which may wait indefinitely: for the end of a stream, or for the application.

        Raises:
            ConnectionAbortedError: the connection has ended, or the peer sends much more than is read.
        """
        handling = asyncio.ensure_future(self.protocol.handle(event))
        ending = asyncio.ensure_future(self._ended.wait())
        try:
            while not handling.done():
                await asyncio.wait(
                    {handling, ending},
                    timeout=self._limits.stall_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if ending.done():
                    await asyncio.wait({handling}, timeout=self._limits.grace_s)
                # Reading is paused if much data is waiting. Then the end of the connection is not noticed either.
                if not handling.done() and (ending.done() or not self._is_reading()):
                    self.abort()
                    raise ConnectionAbortedError("the connection has ended")
            handling.result()
        finally:
            handling.cancel()
            ending.cancel()

    def _is_reading(self) -> bool:
        return cast(asyncio.ReadTransport, self.writer.transport).is_reading()

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
            except (OSError, RuntimeError):  # closed, or the peer cannot be reached any more
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
        # asyncio fails to abort a transport that closed after its buffer was sent
        if not self._peer.is_lost:
            self.writer.transport.abort()

    async def _close(self) -> None:
        # Closing waits until the peer has read the rest of the buffer: limit that wait.
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(super()._close(), self._limits.stall_s)
        self.abort()


def _address(name: Any) -> tuple[str, int] | None:
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None
