"""Hosts with several addresses, some of which do not answer: a site whose IPv6 uplink is broken."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.http_camera import Request, http_camera
from support.mosquitto import free_port
from support.waiting import slack, wait_for
from support.webhooks import running_webhooks
from tridetr.capture.sources.http_request import get, http_address
from tridetr.capture.sources.rtsp_redirect import final_url
from tridetr.capture.sources.tls import speaks_tls
from tridetr.hang_up import HangUp, open_connection
from tridetr.notify import http

HOST = "push.example"


@contextlib.contextmanager
def silent(addresses: Sequence[str], port: int) -> Iterator[None]:
    """Listen with a full backlog: the kernel drops further connection requests, as a dead uplink does."""
    with contextlib.ExitStack() as stack:
        for address in addresses:
            listener = stack.enter_context(socket.socket())
            listener.bind((address, port))
            listener.listen(0)
            for _ in range(4):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex((address, port))
        yield


def resolve(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let the test's host have these addresses."""

    def find(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        assert host == HOST
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (address, port, 0, 0) if ":" in address else (address, port),
            )
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", find)


DEAD = [f"127.0.0.{last}" for last in range(2, 6)]


def test_a_notification_gets_through_to_a_host_with_four_dead_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each took 10 s, until the deadline of the delivery closed the connection to the good one."""
    with running_webhooks() as server, silent(DEAD, server.port):
        resolve(monkeypatch, *DEAD, "127.0.0.1")
        began_s = time.monotonic()
        answer = http.post(f"http://{HOST}:{server.port}/hook", b"{}", {})
        took_s = time.monotonic() - began_s
    assert answer.status == 200
    assert took_s < slack(3)


def test_a_slow_name_server_does_not_use_up_the_time_for_the_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with silent(DEAD[:1], port):
            resolve(monkeypatch, DEAD[0], "127.0.0.1")
            quick = socket.getaddrinfo

            def slow(*words: Any, **keys: Any) -> list[Any]:
                time.sleep(0.6)
                return quick(*words, **keys)

            monkeypatch.setattr(socket, "getaddrinfo", slow)
            open_connection(HOST, port, 0.5).close()


def test_cameras_with_dead_addresses_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def page(request: Request) -> None:
        request.head("text/plain")
        request.send(b"hello")

    with http_camera(page) as camera:
        port = urlsplit(camera.url()).port
        assert port
        with silent(DEAD, port):
            resolve(monkeypatch, *DEAD, "127.0.0.1")
            began_s = time.monotonic()
            url = f"http://{HOST}:{port}/"
            with get(http_address(url, url, None, 5.0, HangUp())) as response:
                assert response.read() == b"hello"
            assert not speaks_tls(HOST, port)
            rtsp = f"rtsp://user:password@{HOST}:{port}/"
            assert final_url(rtsp, rtsp, None, 5.0, HangUp()) == rtsp
    assert time.monotonic() - began_s < slack(6)


def test_the_timeout_is_for_all_addresses_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt took 10 s for each of them."""
    monkeypatch.setattr(http, "STALL_S", 1.0)
    port = free_port()
    with silent(DEAD, port):
        resolve(monkeypatch, *DEAD)
        began_s = time.monotonic()
        with pytest.raises(TimeoutError, match=rf"http://{HOST}:{port} does not answer within 1 s"):
            http.post(f"http://{HOST}:{port}/hook", b"{}", {})
    assert 0.9 < time.monotonic() - began_s < slack(2)


def test_the_other_family_is_tried_second(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_webhooks() as server, silent(DEAD, server.port):
        resolve(monkeypatch, "::1", "::2", "::3", "127.0.0.1", *DEAD)
        tried: list[str] = []
        connect_ex = socket.socket.connect_ex

        def note(sock: socket.socket, address: tuple[Any, ...]) -> int:
            tried.append(address[0])
            return connect_ex(sock, address)

        monkeypatch.setattr(socket.socket, "connect_ex", note)
        open_connection(HOST, server.port, 5.0).close()
    assert tried == ["::1", "127.0.0.1"]


def test_a_refused_connection_is_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, "127.0.0.1", "127.0.0.2")
    with pytest.raises(ConnectionRefusedError):
        open_connection(HOST, free_port(), 5.0)
    resolve(monkeypatch)
    with pytest.raises(OSError, match="no address"):
        open_connection(HOST, 80, 5.0)


def test_connecting_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    hang_up = HangUp()
    ended: list[Exception] = []

    def connect() -> None:
        try:
            open_connection(HOST, port, 60.0, hang_up)
        except OSError as error:
            ended.append(error)

    with silent(DEAD, port):
        resolve(monkeypatch, *DEAD)
        thread = threading.Thread(target=connect, daemon=True)
        thread.start()
        began_s = time.monotonic()
        wait_for(lambda: len(hang_up._sockets) == len(DEAD))
        hang_up.set()
        thread.join(10)
    assert ended
    assert time.monotonic() - began_s < slack(5)
