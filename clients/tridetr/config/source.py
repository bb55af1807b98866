"""A camera's `source`, parsed once: its kind, what FFmpeg or the kernel opens, and what may be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

SourceKind = Literal["v4l2", "rtsp", "http", "file", "synthetic"]

_SCHEMES: dict[str, SourceKind] = {"rtsp": "rtsp", "rtsps": "rtsp", "http": "http", "https": "http"}
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.DOTALL)
_ADDRESS = re.compile(r"(?:[^@:]*(?::[^@:]*)?@)?(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
# `name=value` in a path or query, also as cameras write it: /user=admin_password=x_channel=1.sdp
_SECRET = re.compile(
    r"(?:pass|pas(?==)|pwd|psw|secret|token|credential|api_?key|(?<![a-z])pw|(?<![a-z])auth)[a-z_-]*=([^&;/?#]*)",
    re.IGNORECASE,
)
# URLs that lost their scheme or its slashes, which must not be shown as the names of files
_LOST_SCHEME = re.compile(
    r"^(?:rtsps?|https?|rtmp|udp|tcp):|:[^/]*@|" + _SECRET.pattern, re.IGNORECASE
)
_NO_SECRETS = {"", "0", "1", "true", "false", "yes", "no"}
_USER, _PASSWORD = "{user}", "{password}"
_REMEDY = (
    "put `user:password` into a file, name it in credentials_file, and write {user} and {password} "
    "where the URL needs them (not needed for user:password@host)"
)


@dataclass(frozen=True, slots=True)
class CameraSource:
    """What a camera's frames come from.

    Attributes:
        text: the source as configured; a URL may hold the placeholders {user} and {password}.
        kind: what sort of source it is.

    >>> door = CameraSource.parse("rtsp://camera:8554/live?channel=1")
    >>> door.kind, door.address, door.shown
    ('rtsp', ('camera', 8554), 'rtsp://camera:8554')
    """

    text: str
    kind: SourceKind

    @classmethod
    def parse(cls, text: str) -> CameraSource:
        """Parse a source.

        Raises:
            ValueError: it is of no known kind, not a valid URL, or holds a password; the message
                does not repeat it.
        """
        if text == "synthetic":
            return cls(text, "synthetic")
        if text.startswith("/dev/") and not text.startswith("/dev/shm/"):  # noqa: S108
            return cls(text, "v4l2")
        if "://" not in text:
            is_path = text[0] in "/.~" and not text.startswith("//")
            if not is_path and _LOST_SCHEME.search(text):
                raise ValueError(
                    f"a URL begins with rtsp://, rtsps://, http:// or https:// (a file of such a name: "
                    f"write ./ before it); if it holds a password, {_REMEDY}"
                )
            return cls(text, "file")
        scheme = text.partition("://")[0].lower()
        if scheme not in _SCHEMES:
            name = f"{scheme}://" if scheme.isalnum() else "this protocol"
            raise ValueError(
                f"{name} is not known; use rtsp://, rtsps://, http://, https://, /dev/videoN, "
                "a video file or synthetic"
            )
        text = scheme + text[len(scheme) :]
        _check_url(text)
        return cls(text, _SCHEMES[scheme])

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of a network camera."""
        parts = urlsplit(self.text)
        return parts.hostname or "", parts.port or _PORTS[parts.scheme]

    @property
    def is_network(self) -> bool:
        """Whether the source is a URL."""
        return self.kind in ("rtsp", "http")

    @property
    def is_encrypted(self) -> bool:
        """Whether the source is a URL with TLS."""
        return self.text.startswith(("rtsps://", "https://"))

    @property
    def needs_credentials(self) -> bool:
        """Whether the source has placeholders to be filled from `credentials_file`."""
        return self.is_network and (_USER in self.text or _PASSWORD in self.text)

    @property
    def shown(self) -> str:
        """The source for logs and messages: of a URL only scheme, host and port."""
        return shown_url(self.text) if self.is_network else self.text

    def url(self, credentials: tuple[str, str] | None) -> str:
        """Return the URL to open, with the credentials in its placeholders or its user-info.

        >>> CameraSource.parse("http://camera/?u={user}&p={password}").url(("me", "a b"))
        'http://camera/?u=me&p=a%20b'
        >>> CameraSource.parse("rtsp://camera/1").url(("me", "p@ss"))
        'rtsp://me:p%40ss@camera/1'
        """
        if credentials is None:
            return self.text
        user, password = (quote(word, safe="") for word in credentials)
        if self.needs_credentials:
            return self.text.replace(_USER, user).replace(_PASSWORD, password)
        parts = urlsplit(self.text)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{user}:{password}@{host}"))

    def __str__(self) -> str:
        return self.shown

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source_type: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda it: it.text),
        )

    @classmethod
    def _validate(cls, value: object) -> CameraSource:
        if isinstance(value, CameraSource):
            return value
        if not isinstance(value, str) or not value:
            raise ValueError("write the source as text, such as /dev/video0 or rtsp://…")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("the source is not valid Unicode text") from None
        return cls.parse(value)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "minLength": 1}


def absolute_file(source: CameraSource, absolute: Path) -> CameraSource:
    """Return a file's source with its path made absolute."""
    return CameraSource(str(absolute), source.kind)


def shown_url(url: str) -> str:
    """Return what may be shown of any URL, however odd: scheme, host and port.

    >>> shown_url("rtsp://user:secret@camera:554/live?token=secret")
    'rtsp://camera:554'
    >>> shown_url("rtsp://user:sec/ret@camera/1")
    'rtsp://…'
    """
    match = _URL.match(url)
    if match is None:
        return "…"
    scheme, address, rest = match.groups()
    host = _ADDRESS.fullmatch(address)
    if host is None or "@" in rest:
        return f"{scheme}://…"
    return f"{scheme}://{host[1]}{host[2] or ''}"


def shown_value(text: str) -> str:
    """Return what may be shown of a refused value, which may be a URL that lost its scheme."""
    if "://" in text:
        return shown_url(text)
    return "…" if "@" in text or _SECRET.search(text) else text


def without_logins(message: str) -> str:
    """Return a message with the URLs in it that may hold a password as they may be shown."""

    def shown(found: re.Match[str]) -> str:
        return shown_url(found[0]) if "@" in found[0] or _SECRET.search(found[0]) else found[0]

    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+", shown, message)


def _check_url(url: str) -> None:
    """Raise ValueError where a URL holds a password or cannot be opened."""
    try:
        parts = urlsplit(url)
        odd_port = parts.port == 0
    except ValueError:
        parts, odd_port = urlsplit(""), True
    rest = url.partition("://")[2][len(parts.netloc) :]
    user_info, _, host = parts.netloc.rpartition("@")
    password = unquote(user_info).partition(":")[2]
    if password and password != _PASSWORD:
        raise ValueError(f"the URL holds a password: {_REMEDY}")
    values = _SECRET.findall(unquote(rest))
    if any(value not in _NO_SECRETS and not value.startswith(_PASSWORD) for value in values):
        raise ValueError(f"the URL seems to hold a password in its path or query: {_REMEDY}")
    if "@" in rest:
        raise ValueError(
            f"there is an @ after the host: if it belongs to a password, {_REMEDY}; "
            "else write it as %40"
        )
    if odd_port or _ADDRESS.fullmatch(host) is None:
        raise ValueError(
            f"not a valid URL (host and port, such as rtsp://192.0.2.17:554/1); if it holds a "
            f"password, {_REMEDY}"
        )
    if any(not char.isprintable() or char.isspace() for char in url):
        raise ValueError(
            "the URL holds a blank or a control character; write it as %20 or the like"
        )
