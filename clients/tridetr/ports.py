"""Find free TCP ports, and the URL of a server."""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

_LISTEN = "0A"  # in /proc/net/tcp


def bind_fault(host: str, port: int) -> str | None:
    """Return why a server cannot bind to this address now; None if it can."""
    try:
        free_port(host, port)
    except OSError as error:
        return error.strerror or str(error)
    return None


def free_port(host: str = "127.0.0.1", wanted: int = 0) -> int:
    """Return a port that a server can bind to now: ``wanted``, or any free port if that is 0.

    Raises:
        OSError: The wanted port is in use or not permitted, or the host is not an address of this machine.
    """
    info = socket.getaddrinfo(host, wanted, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    with socket.socket(info[0], socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(info[4])
        return int(probe.getsockname()[1])


def listeners(port: int, address: str = "") -> set[int]:
    """Return the IDs of the users whose processes listen on a TCP port of this machine.

    Args:
        port: The port.
        address: Only those that get the connections to this IPv4 address.
    """
    exact, others = set(), set()
    wanted = f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}" if address else ""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                _, local, _, state, _, _, _, user, *_ = line.split()
                host, _, number = local.rpartition(":")
                if state != _LISTEN or int(number, 16) != port:
                    continue
                if wanted and host.endswith(wanted):  # in the second table: mapped to IPv6
                    exact.add(int(user))
                elif not wanted or not int(host, 16):
                    others.add(int(user))
    return exact or others


def viewer_url(host: str, port: int) -> str:
    """Return the URL at which a browser on this machine reaches the viewer.

    Example:
        >>> viewer_url("0.0.0.0", 8080)
        'http://127.0.0.1:8080/'
    """
    if host in ("", "0.0.0.0", "::"):  # noqa: S104
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
