"""HTTP connections that another thread can abort at any point: in the TLS handshake, the headers or the body."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import weakref
from typing import Any


class HangUp(threading.Event):
    """An event that, once set, ends all reads and writes on the sockets attached to it.

    A socket timeout bounds a single read: a peer that sends one byte now and then can stay below it indefinitely.
    """

    def __init__(self) -> None:
        super().__init__()
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
        super().connect()
        self._hang_up.attach(self.sock)


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
