"""Read and validate query parameters of the current request."""

from __future__ import annotations

from quart import request
from quart.wrappers import Request, Websocket

from tridetr.gateway.viewer_session import Size


class BadParameterError(ValueError):
    """A query parameter is invalid; answered with status 400."""


def optional_integer(name: str, low: int, high: int) -> int | None:
    """Return an integer parameter; None if it is not given.

    Raises:
        BadParameterError: It is not an integer from ``low`` to ``high``.
    """
    text = request.args.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise BadParameterError(f"{name} must be a whole number from {low} to {high}")
    return int(text)


def integer(name: str, low: int, high: int, default: int | None = None) -> int:
    """Return an integer parameter; it is required if there is no default.

    Raises:
        BadParameterError: It is missing, or not an integer from ``low`` to ``high``.
    """
    found = optional_integer(name, low, high)
    if found is None:
        found = default
    if found is None:
        raise BadParameterError(f"{name} is required: a whole number from {low} to {high}")
    return found


def picture_size(asked: Request | Websocket) -> Size:
    """Return the parameter `size`, by default "full".

    Raises:
        BadParameterError: It is neither "small" nor "full".
    """
    size = asked.args.get("size", "full")
    if size not in ("small", "full"):
        raise BadParameterError("size must be small or full")
    return "small" if size == "small" else "full"


def flag(name: str) -> bool:
    """Return whether a parameter is 1; without the parameter, False.

    Raises:
        BadParameterError: It is neither 0 nor 1.
    """
    text = request.args.get(name, "0")
    if text not in ("0", "1"):
        raise BadParameterError(f"{name} must be 0 or 1")
    return text == "1"
