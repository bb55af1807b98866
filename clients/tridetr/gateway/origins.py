"""Check which web pages (origins) and host names may access the gateway. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

# The public DNS does not delegate these names, so no attacker can point one of them at this machine.
_PRIVATE_SUFFIXES = (
    ".localhost", ".local", ".internal", ".lan", ".home", ".home.arpa", ".svc", ".test",
)  # fmt: skip
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def host_and_port(netloc: str, scheme: str = "http") -> tuple[str, int] | None:
    """Return the lower-case host and the port of ``host[:port]``; None if it is malformed.

    Example:
        >>> host_and_port("Node.local"), host_and_port("[::1]:8080")
        (('node.local', 80), ('::1', 8080))
    """
    try:
        parts = urlsplit(f"//{netloc}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or parts.path or parts.query or parts.fragment or "@" in netloc:
        return None
    return host.lower().rstrip("."), port or _DEFAULT_PORTS.get(scheme, 80)


def is_origin_allowed(origin: str, host: str, allowed: Collection[str]) -> bool:
    """Return whether a page of ``origin`` may open the WebSocket or send requests that change something.

    The gateway's own origin is always allowed: its host and port equal the request's ``Host`` header (the scheme may
    differ, because TLS is often terminated by a proxy).

    Args:
        origin: ``Origin`` header in lower case.
        host: ``Host`` header.
        allowed: further origins as ``scheme://host[:port]``.
    """
    if origin in {item.rstrip("/").lower() for item in allowed}:
        return True
    scheme, _, netloc = origin.partition("://")
    if scheme not in ("http", "https"):
        return False  # "null", files, extensions
    theirs = host_and_port(netloc, scheme)
    # Both Host and Origin omit the port if it is the default of the page's scheme.
    return theirs is not None and theirs == host_and_port(host, scheme)


def is_host_trusted(host: str, allowed: Collection[str]) -> bool:
    """Return whether a ``Host`` header cannot result from DNS rebinding.

    A hostile page can make its own host name resolve to this machine; its requests then carry that name. This is not
    possible with IP addresses, names without a dot, private suffixes and the hosts in ``allowed``.
    """
    split = host_and_port(host)
    if split is None:
        return False
    name = split[0]
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        pass
    else:
        return True
    if "." not in name or name.endswith(_PRIVATE_SUFFIXES):
        return True
    known = (host_and_port(item.partition("://")[2].rstrip("/")) for item in allowed)
    return name in {split[0] for split in known if split is not None}
