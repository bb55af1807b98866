"""HTTP connections that another thread can end, whatever they wait for: a TLS handshake, headers, a body."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import weakref
from typing import Any


class HangUp(threading.Event):
    """Ends, once set, all reads and writes on the sockets that were attached to it.

    A timeout of a socket bounds one read. A peer that sends a byte now and then keeps to it for as long as it likes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._attaching = threading.Lock()

    def attach(self, sock: socket.socket) -> None:
        """End this connection, too, when set; it is forgotten with the socket."""
        with self._attaching:
            self._sockets.add(sock)
        if self.is_set():
            _shut_down(sock)

    def set(self) -> None:
        """End all connections."""
        super().set()
        with self._attaching:
            sockets = list(self._sockets)
        for sock in sockets:
            _shut_down(sock)


class PlainConnection(http.client.HTTPConnection):
    """A connection without TLS."""

    def __init__(self, host: str, port: int | None = None, *, hang_up: HangUp, **rest: Any) -> None:
        super().__init__(host, port, **rest)
        self._hang_up = hang_up

    def connect(self) -> None:
        """Connect.

        Raises:
            OSError: There is no connection.
        """
        super().connect()
        self._hang_up.attach(self.sock)


class TlsConnection(PlainConnection):
    """A connection with TLS."""

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
        """Connect and shake hands.

        Raises:
            OSError: There is no connection, or its certificate is not trusted.
        """
        super().connect()
        # While `wrap_socket` shakes hands itself, no other thread can get at the socket
        self.sock = wrapped = self._tls.wrap_socket(
            self.sock, server_hostname=self.host, do_handshake_on_connect=False
        )
        self._hang_up.attach(wrapped)
        wrapped.do_handshake()


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed, or not connected any more
        socket.socket.shutdown(
            sock, socket.SHUT_RDWR
        )  # past TLS, which another thread may be using
