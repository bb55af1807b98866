"""Messages of the viewer protocol: ``u32 little-endian JSON length | JSON | image`` (docs/viewer-protocol.md)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

PROTOCOL = "tridetr.v1"
MAX_COMMAND_BYTES = 1024
_LENGTH = struct.Struct("<I")
_MAX_NUMBER = 2.0**53  # integers up to this are exact in JavaScript


class MessageError(ValueError):
    """A message violates the protocol."""


def pack(header: Mapping[str, object], image: bytes = b"") -> bytes:
    """Return a message to a viewer.

    Args:
        header: JSON-compatible header.
        image: bytes that follow the header.

    Raises:
        ValueError: the header contains NaN or infinity, which JSON cannot represent.

    Example:
        >>> unpack(pack({"type": "pong"}, b"image"))
        ({'type': 'pong'}, b'image')
    """
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    return b"".join((_LENGTH.pack(len(text)), text, image))


def unpack(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the image of a message.

    Raises:
        MessageError: the length is wrong, or the header is not a JSON object.
    """
    if len(message) < _LENGTH.size:
        raise MessageError(f"a message needs at least {_LENGTH.size} bytes, got {len(message)}")
    (length,) = _LENGTH.unpack_from(message)
    end = _LENGTH.size + length
    if end > len(message):
        raise MessageError(f"a header of {length} bytes does not fit in {len(message)} bytes")
    try:
        header = json.loads(message[_LENGTH.size : end])
    except ValueError as error:
        raise MessageError(f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise MessageError("the header is not a JSON object")
    return header, message[end:]


class _Command(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class View(_Command):
    """Selects what the gateway sends to the viewer."""

    type: Literal["view"]
    size: Literal["small", "full"] = "full"
    paused: bool = False
    # The camera's own video (`video` messages) instead of pictures (`frame` messages). If the camera has a second
    # stream (`cameras.x.view`), "source" and the size "small" select the first one.
    video: bool | Literal["source"] = False
    # Frames that may be in flight without an acknowledgement; 0 = no limit.
    window: Annotated[int, Field(ge=0, le=8)] = 0


class Ack(_Command):
    """Acknowledges the number of frames shown or skipped and of packets decoded since the viewer connected."""

    type: Literal["ack"]
    frames: Annotated[int, Field(ge=0, le=2**53)] = 0
    packets: Annotated[int, Field(ge=0, le=2**53)] = 0


class Ping(_Command):
    """Sends the viewer's clock in milliseconds; `pong` returns it together with the server's."""

    type: Literal["ping"]
    t: Annotated[float, Field(ge=-_MAX_NUMBER, le=_MAX_NUMBER, allow_inf_nan=False)]


Command = View | Ack | Ping
_COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="type")])


def parse_command(data: str | bytes) -> Command:
    """Return the command that a viewer sent.

    Raises:
        MessageError: it is binary, too long, not JSON, or not a known command.
    """
    if not isinstance(data, str):
        raise MessageError("commands must be text messages")
    if len(data) > MAX_COMMAND_BYTES:
        raise MessageError(f"a command must not exceed {MAX_COMMAND_BYTES} characters")
    try:
        return _COMMANDS.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MessageError(f"not a command ({where or 'JSON'}: {first['msg']})"[:120]) from error
