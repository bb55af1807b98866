"""The gateway's listening socket."""

from __future__ import annotations

import resource
import socket

import pytest

from tridetr.config import Config
from tridetr.gateway import gateway_process
from tridetr.gateway.listener import listen


def test_small_writes_are_sent_at_once() -> None:
    """Otherwise a second write, such as the body after the headers, waits 40 ms for the first one's acknowledgement.

    Asyncio does not set the option itself for sockets that were created without a protocol.
    """
    with listen("127.0.0.1", 0) as listener:
        listener.setblocking(True)
        with (
            socket.create_connection(listener.getsockname()) as _,
            listener.accept()[0] as accepted,
        ):
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_connections_leave_descriptors_for_probes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With 40 descriptors, idle connections took all of them, and /healthz was not answered."""
    config = Config.model_validate({"cameras": {"hall": {"source": "synthetic"}}})
    wanted = config.gateway.max_viewers + 256
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    for soft, hard, least, most in (
        (100_000, 100_000, wanted, wanted),
        (100, 100_000, wanted, wanted),  # can be raised
        (100, 100, 4, 99),
        (10, 10, 4, 4),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, pair=(soft, hard): pair)
        assert least <= gateway_process.connection_limit(config) <= most
    assert "ulimit -n) is 100: the viewer serves" in caplog.text
