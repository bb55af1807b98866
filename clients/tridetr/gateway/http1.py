"""Hypercorn's HTTP/1.1 and WebSocket protocol for one connection, without HTTP/2 and compression."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import h11
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.events import Closed, Event
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.protocol.ws_stream import FrameTooLargeError, WebsocketBuffer, WSStream
from quart import Quart
from wsproto.events import Message

from tridetr.gateway.security import ADMITTED

# Parsing and handling take about 10 µs per header field; browsers and proxies send about 20 of them.
_MAX_FIELDS = 100
_MAX_HEAD = 2**14
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_ABNORMAL = 1006  # WebSocket close code of a connection that ends without one
_GOODBYE_S = 1.0  # time for the close frame to reach a peer that has sent too much


class Http1(H11Protocol):  # type: ignore[misc]  # untyped
    """HTTP/1.1 and WebSocket without message compression."""

    cut_off: Callable[[], None]  # ends the connection
    is_gone: Callable[[], bool]  # whether the connection has ended, so that no response can be sent

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connection = _LimitedConnection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)

    @property
    def is_websocket(self) -> bool:
        """Whether the application has accepted a WebSocket on this connection."""
        return isinstance(self.stream, WSStream) and self.stream.handshake.accepted

    @property
    def is_streaming(self) -> bool:
        """Whether a response is being sent, during which the client sends nothing."""
        return isinstance(self.stream, HTTPStream) and self.stream.state is ASGIHTTPState.RESPONSE

    @property
    def is_admitted(self) -> bool:
        """Whether the response that is being sent needed a login, if there is a token."""
        return self.is_streaming and ADMITTED in self.stream.scope

    async def handle(self, event: Event) -> None:
        """Process what arrived; close the connection of a refused WebSocket, which Hypercorn would leave open."""
        await super().handle(event)
        if isinstance(self.stream, WSStream) and self.stream.closed:
            await self.send(Closed())

    async def _check_protocol(self, event: h11.Request) -> None:
        """Ignore requests to upgrade to HTTP/2, as HTTP/1.1 permits."""

    async def _create_stream(self, request: h11.Request) -> None:
        # The end of the connection cancels this task, but Hypercorn's idle task, which is stopped just before, swallows
        # that. Without a stream, Hypercorn handles no further pipelined requests.
        if self.is_gone():
            return
        # A proxy may use the other header: what it takes for the body would be a request here (RFC 9112, 6.1).
        both = {b"content-length", b"transfer-encoding"} <= {name for name, _ in request.headers}
        if both or not _is_sound(request):
            await self._send_error_response(400)
            await self.send(Closed())
            return
        kept = [item for item in request.headers if item[0] != b"sec-websocket-extensions"]
        await super()._create_stream(
            h11.Request(
                method=request.method,
                target=request.target,
                headers=kept,
                http_version=request.http_version,
            )
        )
        if isinstance(self.stream, WSStream):
            self.stream.buffer = _Buffer(self.config.websocket_max_message_size, self.cut_off)


def _is_sound(request: h11.Request) -> bool:
    """Return whether Quart and wsproto can handle a request: all others raise exceptions in them."""
    path = unquote(request.target.partition(b"?")[0].decode("ascii"))
    try:
        for name, value in request.headers:
            if name == b"host":
                value.decode("latin-1").lower().partition(":")[0].encode("idna")
            elif name in (b"connection", b"sec-websocket-protocol"):
                value.decode("ascii")
        return path.startswith("/") or urlsplit(path).path != ""
    except ValueError:
        return False


class _LimitedConnection(h11.Connection):
    """Refuses requests with too many or too long header fields before it parses them.

    h11 itself limits only heads that arrive in parts.
    """

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            data, _ = self.trailing_data
            end = _END_OF_HEAD.search(data)
            size = end.start() if end else len(data)
            if size > _MAX_HEAD or data.count(b"\n", 0, size) > _MAX_FIELDS:
                raise h11.RemoteProtocolError("too many header fields", error_status_hint=431)
        return super().next_event()


class _Buffer(WebsocketBuffer):  # type: ignore[misc]  # untyped
    """Collects a message. Hypercorn closes on a message that is too long, but would keep reading and storing it."""

    def __init__(self, max_length: int, cut_off: Callable[[], None]) -> None:
        super().__init__(max_length)
        self._cut_off = cut_off
        self._is_too_long = False

    def extend(self, event: Message[Any]) -> None:
        if self.length + len(event.data) <= self.max_length and not self._is_too_long:
            super().extend(event)
            return
        if not self._is_too_long:
            self._is_too_long = True
            asyncio.get_running_loop().call_later(_GOODBYE_S, self._cut_off)
        raise FrameTooLargeError


class Application:
    """The application for the requests of one connection: each ends when the connection does.

    Hypercorn reports the end of a connection to the application only in some states, and Quart's handlers go on if the
    task that called it is cancelled.
    """

    def __init__(self, app: Quart, ended: asyncio.Event) -> None:
        self._app = app
        self._ended = ended

    async def __call__(self, scope: Any, receive: Any, send: Any, *_: Any) -> None:
        """Handle one request."""

        async def receive_or_end() -> dict[str, Any]:
            message = asyncio.ensure_future(receive())
            ending = asyncio.ensure_future(self._ended.wait())
            try:
                await asyncio.wait({message, ending}, return_when=asyncio.FIRST_COMPLETED)
                if message.done():
                    return cast("dict[str, Any]", message.result())
            finally:
                message.cancel()
                ending.cancel()
            return {"type": f"{scope['type']}.disconnect", "code": _ABNORMAL}

        running = asyncio.ensure_future(self._app(scope, receive_or_end, send))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            self._ended.set()
            await asyncio.wait({running})
            raise


class Context(WorkerContext):  # type: ignore[misc]  # untyped
    """The context that Hypercorn's parts of one connection share."""

    def __init__(self, ended: asyncio.Event) -> None:
        super().__init__(None)
        self._ended = ended

    async def sleep(self, wait: float) -> None:
        """Sleep between pings, but not past the end of the connection, whose closing waits for this."""
        ending = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({ending}, timeout=wait)
        finally:
            ending.cancel()
