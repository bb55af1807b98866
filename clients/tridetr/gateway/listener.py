"""The viewer's listening socket.

`tridetr up` opens it and keeps it open while the gateway restarts. Otherwise another user of the machine could listen
there in the meantime, and would get the tokens and sessions of the viewers that reconnect.
"""

from __future__ import annotations

import os
import socket

from tridetr.errors import GatewayError

# Environment: descriptor of the socket that the supervisor has opened
INHERITED = "TRIDETR_LISTENER"
_SEND_BUFFER = 512 * 1024  # kernel buffer; a larger one only means older pictures for slow viewers


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


def inherited_or_new(host: str, port: int) -> socket.socket:
    """Return the socket that the supervisor has opened, or a new one if this process has no supervisor.

    Raises:
        GatewayError: see `listen`.
    """
    descriptor = os.environ.get(INHERITED)
    return listen(host, port) if descriptor is None else socket.socket(fileno=int(descriptor))
