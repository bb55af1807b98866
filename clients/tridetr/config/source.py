"""Parse a camera's `source` and print it without secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

SourceKind = Literal["v4l2", "rtsp", "http", "file", "synthetic"]

_SCHEMES: dict[str, SourceKind] = {"rtsp": "rtsp", "rtsps": "rtsp", "http": "http", "https": "http"}
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.DOTALL)
_ADDRESS = re.compile(
    r"(?:[^@:]*(?::[^@:]*)?@)?(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]{1,253})(:\d{1,5})?"
)
# `name=value` in a path or query, also as cameras write it: /user=admin_password=x_channel=1.sdp
_SECRET = re.compile(
    r"(?:pass|pas(?==)|pwd|psw|secret|token|credential|api_?key|(?<![a-z])pw|(?<![a-z])auth)[a-z_-]{0,64}=([^&;/?#]*)",
    re.IGNORECASE,
)
# URLs without their scheme or its slashes, which must not be mistaken for file names and shown
_LOST_SCHEME = re.compile(
    r"^(?:rtsps?|https?|rtmp|udp|tcp):|:[^/:@]*@|" + _SECRET.pattern, re.IGNORECASE
)
_NO_SECRETS = {"", "0", "1", "true", "false", "yes", "no"}
_USER, _PASSWORD = "{user}", "{password}"
_REMEDY = (
    "write `user:password` to a file, set credentials_file to its path, and write {user} and {password} "
    "where the URL needs them (not needed for user:password@host)"
)


@dataclass(frozen=True, slots=True)
class CameraSource:
    """The source of a camera's frames.

    Attributes:
        text: The source as configured; a URL may contain the placeholders {user} and {password}.
        kind: The kind of source.

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
            ValueError: The text is not a known kind of source, not a valid URL, or contains a password; the
                message does not repeat it.
        """
        if text == "synthetic":
            return cls(text, "synthetic")
        if text.startswith("/dev/") and not text.startswith("/dev/shm/"):  # noqa: S108
            return cls(text, "v4l2")
        if "://" not in text:
            is_path = text[0] in "/.~" and not text.startswith("//")
            if not is_path and _LOST_SCHEME.search(text):
                raise ValueError(
                    f"a URL must begin with rtsp://, rtsps://, http:// or https:// (if it is a file, "
                    f"write ./ before its name); if it contains a password, {_REMEDY}"
                )
            return cls(text, "file")
        scheme = text.partition("://")[0].lower()
        if scheme not in _SCHEMES:
            name = f"{scheme}://" if scheme.isalnum() else "this protocol"
            raise ValueError(
                f"{name} is not supported; use rtsp://, rtsps://, http://, https://, /dev/videoN, "
                "a video file or synthetic"
            )
        text = scheme + text[len(scheme) :]
        _check_url(text)
        return cls(text, _SCHEMES[scheme])

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of a network camera; the port defaults to that of the URL's scheme."""
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
        """Whether the URL has placeholders that are filled in from `credentials_file`."""
        return self.is_network and (_USER in self.text or _PASSWORD in self.text)

    @property
    def shown(self) -> str:
        """The source for logs and messages; of a URL, only scheme, host and port."""
        return shown_url(self.text) if self.is_network else self.text

    def url(self, credentials: tuple[str, str] | None) -> str:
        """Return the URL to open, with the credentials in its placeholders or its user info.

        Args:
            credentials: (user, password), or None to return the URL as configured.

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


def shown_url(url: str) -> str:
    """Return scheme, host and port of a URL, without anything that may be secret; "…" for what cannot be parsed.

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
    """Return an invalid value for a message, or "…" where it may contain a secret."""
    if "://" in text:
        return shown_url(text)
    return "…" if "@" in text or _SECRET.search(text) else text


def without_logins(message: str) -> str:
    """Return a message with every URL in it that may contain a password cut to scheme, host and port."""

    def shown(found: re.Match[str]) -> str:
        return shown_url(found[0]) if "@" in found[0] or _SECRET.search(found[0]) else found[0]

    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s'\"]+", shown, message)


def _check_url(url: str) -> None:
    """Raise ValueError if a URL is malformed or contains a password."""
    try:
        parts = urlsplit(url)
        odd_port = parts.port == 0
    except ValueError:
        parts, odd_port = urlsplit(""), True
    rest = url.partition("://")[2][len(parts.netloc) :]
    user_info, _, host = parts.netloc.rpartition("@")
    password = unquote(user_info).partition(":")[2]
    if password and password != _PASSWORD:
        raise ValueError(f"the URL contains a password: {_REMEDY}")
    values = _SECRET.findall(unquote(rest))
    if any(value not in _NO_SECRETS and not value.startswith(_PASSWORD) for value in values):
        raise ValueError(f"the URL seems to contain a password in its path or query: {_REMEDY}")
    if "@" in rest:
        raise ValueError(
            f"the URL has an @ after the host: if it belongs to a password, {_REMEDY}; "
            "otherwise write it as %40"
        )
    if odd_port or _ADDRESS.fullmatch(host) is None:
        raise ValueError(
            f"not a valid URL (host and port, such as rtsp://192.0.2.17:554/1); if it contains a "
            f"password, {_REMEDY}"
        )
    if any(not char.isprintable() or char.isspace() for char in url):
        raise ValueError(
            "the URL contains a blank or a control character; percent-encode it (a blank is %20)"
        )
