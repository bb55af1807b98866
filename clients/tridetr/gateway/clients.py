"""Find the client of a request behind trusted reverse proxies."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from quart.wrappers import Request, Websocket

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_SITE_PREFIX = 64  # smallest IPv6 network that a provider assigns to a customer


class Proxies:
    """Reads the ``X-Forwarded-…`` headers of the proxies in ``gateway.trusted_proxies`` only."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = trusted

    def address(self, asked: Request | Websocket) -> Address | None:
        """Return the client's address: the last forwarded one that is not a trusted proxy."""
        address = parse_address(asked.remote_addr or "")
        hops = ",".join(asked.headers.getlist("X-Forwarded-For")).split(",")
        while hops and address is not None and self._is_trusted(address):
            earlier = parse_address(hops.pop())
            if earlier is None:
                break
            address = earlier
        return address

    def host(self, asked: Request | Websocket) -> str:
        """Return the host, with the port if there is one, that the client requested."""
        forwarded = asked.headers.get("X-Forwarded-Host", "").rpartition(",")[2].strip()
        return forwarded if forwarded and self.is_proxied(asked) else asked.headers.get("Host", "")

    def is_proxied(self, asked: Request | Websocket) -> bool:
        """Return whether a trusted proxy forwarded the request."""
        peer = parse_address(asked.remote_addr or "")
        return peer is not None and self._is_trusted(peer)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def parse_address(text: str) -> Address | None:
    """Return the IP address in a text that may include a port, brackets or a zone; None if there is none.

    IPv4 addresses mapped to IPv6 are returned as IPv4.

    Example:
        >>> parse_address("[::ffff:192.0.2.1]:8080")
        IPv4Address('192.0.2.1')
    """
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def site_of(address: Address | None) -> str:
    """Return the key that rate limits count by: an IPv4 address, or the /64 network of an IPv6 address."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _SITE_PREFIX), strict=False))
    return str(address) if address is not None else "local"
