"""Connections that another thread can abort at any point: while connecting, in the TLS handshake, headers or body."""

from __future__ import annotations

import contextlib
import errno
import http.client
import math
import os
import selectors
import socket
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

_NEXT_S = 0.25  # RFC 8305's "Connection Attempt Delay"
_Address: TypeAlias = tuple[Any, Any, int, str, Any]  # as `socket.getaddrinfo` returns them


class HangUp(threading.Event):
    """An event that, once set, ends all reads and writes on the sockets attached to it.

    A socket timeout bounds a single read: a peer that sends one byte now and then can stay below it indefinitely.

    Attributes:
        until_s: When it will be set if nothing has been opened by then (`time.monotonic`) [s].
    """

    def __init__(self) -> None:
        super().__init__()
        self.until_s = math.inf
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._attaching = threading.Lock()

    def attach(self, sock: socket.socket) -> None:
        """Shut this socket down when the event is set; only a weak reference to it is kept."""
        with self._attaching:
            self._sockets.add(sock)
        if self.is_set():
            _shut_down(sock)

    def set(self) -> None:
        """Set the event and shut all attached sockets down."""
        super().set()
        with self._attaching:
            sockets = list(self._sockets)
        for sock in sockets:
            _shut_down(sock)


def open_connection(
    host: str, port: int, timeout_s: float | None, hang_up: HangUp | None = None
) -> socket.socket:
    """Connect to the address of a host that answers first (Happy Eyeballs, RFC 8305).

    Addresses of IPv6 and IPv4 take turns. The next one is tried when the one before has failed, or has not answered
    within a quarter of a second: often, those of one family are dead.

    Args:
        host: Name or address.
        port: TCP port.
        timeout_s: Time limit for all addresses together, once they are known, and then for each read and write [s];
            None = there is none.
        hang_up: Once set, aborts the attempt, and later the connection.

    Returns:
        The connected socket, attached to ``hang_up``.

    Raises:
        OSError: No address can be reached.
    """
    waiting = deque(_by_turns(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
    now_s = time.monotonic()
    deadline_s, next_s = math.inf if timeout_s is None else now_s + timeout_s, now_s
    fault = OSError(f"{host} has no address")
    with selectors.DefaultSelector() as trying:
        try:
            while waiting or trying.get_map():
                if hang_up is not None and hang_up.is_set():
                    raise ConnectionAbortedError(errno.ECONNABORTED, "the connection was aborted")
                if now_s >= deadline_s:
                    raise TimeoutError("timed out")
                if waiting and now_s >= next_s:
                    next_s = now_s + _NEXT_S
                    try:
                        sock = _begin(waiting.popleft(), hang_up)
                    except OSError as error:  # such as no route to it
                        fault, next_s = error, now_s
                    else:
                        trying.register(sock, selectors.EVENT_WRITE, sock)
                    continue
                until_s = min(next_s, deadline_s) if waiting else deadline_s
                wait_s = None if until_s == math.inf else max(0.0, until_s - now_s)
                for key, _ in trying.select(wait_s):
                    trying.unregister(key.fileobj)
                    code = key.data.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not code:
                        found: socket.socket = key.data
                        found.settimeout(timeout_s)
                        return found
                    key.data.close()
                    fault, next_s = OSError(code, os.strerror(code)), now_s
                now_s = time.monotonic()
            raise fault
        finally:
            for key in trying.get_map().values():
                key.data.close()


def _by_turns(found: Sequence[_Address]) -> Iterator[_Address]:
    """Yield addresses with their families by turns, the family of the first one first."""
    first = [address for address in found if address[0] == found[0][0]]
    rest = [address for address in found if address[0] != found[0][0]]
    for pair in zip_longest(first, rest):
        yield from filter(None, pair)


def _begin(address: _Address, hang_up: HangUp | None) -> socket.socket:
    """Return a socket that is connecting to an address.

    Raises:
        OSError: It cannot be reached.
    """
    family, kind, protocol, _, target = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        if hang_up is not None:
            hang_up.attach(sock)
        code = sock.connect_ex(target)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


class _FinalResponse(http.client.HTTPResponse):
    """Passes over interim answers, such as 103 Early Hints; http.client does so only for 100."""

    def begin(self) -> None:
        super().begin()
        while self.status < http.client.OK:
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()


class PlainConnection(http.client.HTTPConnection):
    """An HTTP connection that a `HangUp` can abort."""

    response_class = _FinalResponse

    def __init__(self, host: str, port: int | None = None, *, hang_up: HangUp, **rest: Any) -> None:
        super().__init__(host, port, **rest)
        self._hang_up = hang_up

    def connect(self) -> None:
        """Connect, and attach the socket.

        Raises:
            OSError: The connection failed.
        """
        timeout_s = self.timeout if isinstance(self.timeout, int | float) else None
        self.sock = open_connection(self.host, self.port, timeout_s, self._hang_up)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class TlsConnection(PlainConnection):
    """An HTTPS connection that a `HangUp` can abort."""

    default_port = http.client.HTTPS_PORT

    def __init__(
        self,
        host: str,
        port: int | None = None,
        *,
        hang_up: HangUp,
        tls: ssl.SSLContext,
        **rest: Any,
    ) -> None:
        super().__init__(host, port, hang_up=hang_up, **rest)
        self._tls = tls

    def connect(self) -> None:
        """Connect and perform the TLS handshake.

        Raises:
            OSError: The connection failed, or the server's certificate is not trusted.
        """
        super().connect()
        # If `wrap_socket` did the handshake, no other thread could reach the new socket during it.
        self.sock = wrapped = self._tls.wrap_socket(
            self.sock, server_hostname=self.host, do_handshake_on_connect=False
        )
        self._hang_up.attach(wrapped)
        wrapped.do_handshake()


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already, or no longer connected
        # The plain socket's method: a TLS socket's own would change state that another thread may be using
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
