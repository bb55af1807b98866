"""TCP ports: whether one is free, or any free one."""

from __future__ import annotations

import socket


def bind_fault(host: str, port: int) -> str | None:
    """Return why no server could listen there at this moment; None if one could."""
    try:
        _bound(host, port)
    except OSError as error:
        return error.strerror or str(error)
    return None


def free_port(host: str = "127.0.0.1", wanted: int = 0) -> int:
    """Return a port where a server could listen at this moment: the wanted one, or with 0 any free one.

    Raises:
        OSError: The wanted one is taken or not allowed, or the host is not this machine's.
    """
    return _bound(host, wanted)


def _bound(host: str, port: int) -> int:
    info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    with socket.socket(info[0], socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(info[4])
        return int(probe.getsockname()[1])
