"""Check that the private parts of Hypercorn that the gateway uses are those of the pinned version.

Hypercorn's public ``serve`` does not limit connections or peers that do not read, and cannot turn off HTTP/2 and
message compression. If this test fails after an update of Hypercorn, compare ``gateway/connection.py`` and
``gateway/http1.py`` with the new ``asyncio/tcp_server.py`` and ``protocol/h11.py`` before moving the pin.
"""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import Handshake, WebsocketBuffer, WSStream

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
ARGUMENTS = {
    TCPServer: "self app loop config context state reader writer",
    H11Protocol: "self app config context task_group connection_state ssl client server send",
    WorkerContext: "self max_requests",
    WebsocketBuffer: "self max_length",
    Handshake: "self headers http_version",
}
METHODS: list[tuple[type, str, str, bool]] = [
    (TCPServer, "run", "self", True),
    (TCPServer, "protocol_send", "self event", True),
    (TCPServer, "_read_data", "self", True),
    (TCPServer, "_close", "self", True),
    (TCPServer, "_idle_timeout", "self", True),
    (H11Protocol, "handle", "self event", True),
    (H11Protocol, "_check_protocol", "self event", True),
    (H11Protocol, "_create_stream", "self request", True),
    (WebsocketBuffer, "extend", "self event", False),
    (WorkerContext, "sleep", "wait", True),
]


def arguments(function: Any) -> str:
    return " ".join(inspect.signature(function).parameters)


def test_hypercorn_is_pinned_below_the_next_untried_version() -> None:
    # Not the installed metadata, which may be outdated in a checkout.
    upper = re.search(r'"hypercorn>=[\d.]+,<(\d+)\.(\d+)"', PYPROJECT.read_text(encoding="utf-8"))
    assert upper
    tried = tuple(int(part) for part in version("hypercorn").split(".")[:2])
    assert tried == (int(upper[1]), int(upper[2]) - 1)


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_hypercorn_constructors_have_the_pinned_signatures(kind: type) -> None:
    assert arguments(kind.__init__) == ARGUMENTS[kind]  # type: ignore[misc]


@pytest.mark.parametrize(("kind", "name", "wanted", "is_async"), METHODS)
def test_hypercorn_methods_have_the_pinned_signatures(
    kind: type, name: str, wanted: str, is_async: bool
) -> None:
    method = getattr(kind, name)
    assert arguments(method) == wanted
    assert inspect.iscoroutinefunction(method) is is_async


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (TCPServer, ["send_lock", "idle_task", "protocol", "writer", "reader", "state"]),
        (H11Protocol, ["stream", "connection"]),
        (WSStream, ["buffer", "handshake", "closed"]),
        (Handshake, ["accepted"]),
        (WorkerContext, ["terminated"]),
    ],
)
def test_hypercorn_classes_have_the_pinned_attributes(kind: type, names: list[str]) -> None:
    body = inspect.getsource(kind)
    for name in names:
        assert re.search(rf"self\.{name}\b", body), name
