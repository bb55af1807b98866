"""The gateway's listening socket."""

from __future__ import annotations

import socket

from tridetr.gateway.http_server import listen


def test_small_writes_are_sent_at_once() -> None:
    """Otherwise a second write, such as the body after the headers, waits 40 ms for the first one's acknowledgement.

    Asyncio does not set the option itself for sockets that were created without a protocol.
    """
    with listen("127.0.0.1", 0) as listener:
        listener.setblocking(True)
        with (
            socket.create_connection(listener.getsockname()) as _,
            listener.accept()[0] as accepted,
        ):
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
