"""Which web pages and host names may talk to the gateway (pure)."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

# Names under these are never given to strangers by the public DNS, so no foreign page can point them at this machine.
_PRIVATE_SUFFIXES = (
    ".localhost", ".local", ".internal", ".lan", ".home", ".home.arpa", ".svc", ".test",
)  # fmt: skip
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def host_and_port(netloc: str, scheme: str = "http") -> tuple[str, int] | None:
    """Split ``host[:port]`` in lower case; None when it is malformed."""
    try:
        parts = urlsplit(f"//{netloc}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or parts.path or parts.query or parts.fragment or "@" in netloc:
        return None
    return host.lower().rstrip("."), port or _DEFAULT_PORTS.get(scheme, 80)


def is_origin_allowed(origin: str, host: str, allowed: Collection[str]) -> bool:
    """Whether a page of ``origin`` may open the WebSocket or post the login form.

    Its own origin always may: host and port equal the request's ``Host`` (the scheme may differ, because TLS often
    ends in front of the gateway). ``allowed`` holds further origins as ``scheme://host[:port]``.
    """
    if origin in {item.rstrip("/").lower() for item in allowed}:
        return True
    scheme, _, netloc = origin.partition("://")
    if scheme not in ("http", "https"):
        return False  # "null", files, extensions
    theirs = host_and_port(netloc, scheme)
    # The port is left out of Host and Origin alike where it is the default of the page's scheme.
    return theirs is not None and theirs == host_and_port(host, scheme)


def is_host_trusted(host: str, allowed: Collection[str]) -> bool:
    """Whether this ``Host`` can only have been meant for this machine (against DNS rebinding).

    A hostile page can let its own name point at this machine; its requests then carry that name. Addresses, names
    without a dot, private suffixes and the hosts of ``allowed`` cannot be made so.
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
