"""Logins at cameras with Basic and Digest authentication, over HTTP and RTSP."""

from __future__ import annotations

import base64
import hashlib
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast
from urllib.error import URLError
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}
_SCHEMES = "basic", "digest"


class Login:
    """User and password for one server.

    Args:
        user: User name.
        password: Password.
        url: URL on the server. User and password are for all of it, and for no other host, port or scheme: only
            https may replace http, on their usual ports.
    """

    def __init__(self, user: str, password: str, url: str) -> None:
        self._url = url
        self._digest = _Digest(_OnePassword(_as_latin_1(user), _as_latin_1(password)))
        self._basic = base64.b64encode(f"{user}:{password}".encode()).decode()

    def is_for(self, url: str) -> bool:
        """Return whether a URL is on the server."""
        return is_same_server(self._url, url)

    def header(self, method: str, url: str, covered: str, challenges: Iterable[str]) -> str:
        """Return the value of the header ``Authorization``, in Latin-1 as Python's HTTP headers are.

        Args:
            method: Method of the request.
            url: URL of the request.
            covered: The part of the URL that the request's line contains.
            challenges: Values of the headers ``WWW-Authenticate``.

        Returns:
            The value; "" if no challenge is understood, or the URL is on another server.
        """
        if not self.is_for(url):
            return ""
        ways = [way for header in challenges for way in _ways(header)]
        request = cast(urllib.request.Request, _Asked(method, url, _as_latin_1(covered)))
        for kind, parameters in ways:
            if kind == "digest" and (found := self._digest.answer(request, parameters)):
                return f"Digest {found}"
        return f"Basic {self._basic}" if any(kind == "basic" for kind, _ in ways) else ""


def is_same_server(url: str, new: str) -> bool:
    """Return whether the server of `url` may get what is for it at the URL `new` too (see `Login`).

    >>> is_same_server("http://camera/", "https://camera:443/video")
    True
    >>> is_same_server("https://camera/", "http://camera/video")
    False
    """
    old, other = _origin(url), _origin(new)
    is_secured = (*old, *other) == ("http", old[1], 80, "https", old[1], 443)
    return old == other or is_secured


class _OnePassword(urllib.request.HTTPPasswordMgr):
    """Finds the same user and password for every URL: `Login` has checked it."""

    def __init__(self, user: str, password: str) -> None:
        super().__init__()
        self._found = user, password

    def find_user_password(self, realm: str, authuri: str) -> tuple[str, str]:
        return self._found


class _Digest(urllib.request.AbstractDigestAuthHandler):
    """Computes digests as the standard library does, but of text beyond ASCII too."""

    def answer(self, request: urllib.request.Request, parameters: list[str]) -> str:
        """Return the answer to a challenge; "" if it is malformed or asks for something that is not supported."""
        try:
            asked = urllib.request.parse_keqv_list(
                [one for one in parameters if "=" in one]  # schemes without parameters may follow
            )
            if "qop" in asked:
                asked["qop"] = asked["qop"].replace(" ", "")
            return self.get_authorization(request, asked) or ""
        except (ValueError, IndexError, URLError):  # no value, an unknown algorithm, auth-int
            return ""

    def get_algorithm_impls(
        self, algorithm: str
    ) -> tuple[Callable[[str], str], Callable[[str, str], str]]:
        name = {"MD5": "md5", "SHA": "sha1", "SHA-256": "sha256"}.get(algorithm.upper())
        if name is None:
            raise ValueError(f"unknown algorithm {algorithm}")

        def digest(text: str) -> str:
            return hashlib.new(name, text.encode("latin-1"), usedforsecurity=False).hexdigest()

        return digest, lambda secret, data: digest(f"{secret}:{data}")


@dataclass(frozen=True, slots=True)
class _Asked:
    """The parts of a request that its digest covers."""

    method: str
    full_url: str
    selector: str
    data: None = None

    def get_method(self) -> str:
        return self.method


def _ways(header: str) -> list[tuple[str, list[str]]]:
    """Return the challenges of a header: scheme and parameters."""
    found: list[tuple[str, list[str]]] = []
    for item in filter(str.strip, urllib.request.parse_http_list(header)):
        kind, *first = item.split(None, 1)
        if kind.lower() in _SCHEMES:
            found.append((kind.lower(), first))
        elif found:
            found[-1][1].append(item)
    return found


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)


def _as_latin_1(text: str) -> str:
    """Return a text whose Latin-1 encoding is the UTF-8 of the given one: headers of cameras are read as Latin-1."""
    return text.encode().decode("latin-1")
