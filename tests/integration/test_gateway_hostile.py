"""Slow and hostile clients of a real gateway, too many of them, and its shutdown while they are connected."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import sys
import termios
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.gateway import Gateway, cameras
from support.waiting import slack, wait_for
from tridetr.gateway.connection import Limits

QUICK = Limits(connections=300, stall_s=1.0, silence_s=30.0, ping_s=10.0, grace_s=0.5)


# --- slow viewers


def raw_viewer(gateway: Gateway, camera: str) -> socket.socket:
    """A viewer that has opened the stream and reads only on request."""
    client = socket.create_connection(("127.0.0.1", gateway.port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.sendall(
        f"GET /ws/{camera} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    assert client.recv(12) == b"HTTP/1.1 101"
    return client


def unread(client: socket.socket) -> int:
    """Return the number of unread bytes in a socket."""
    return int.from_bytes(fcntl.ioctl(client, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_viewers_that_do_not_read_affect_no_one_and_are_disconnected(tmp_path: Path) -> None:
    """Ten viewers that do not read, and one that reads a byte per second, affect neither camera, others nor memory."""
    options: dict[str, Any] = {"width": 1280, "height": 720, "noise": True}
    with cameras(tmp_path, "hall", **options) as (config, fakes), Gateway(config, QUICK) as gateway:
        camera = fakes["hall"]
        with gateway.watch("hall") as good:
            sleepers = [raw_viewer(gateway, "hall") for _ in range(11)]
            wait_for(lambda: viewers_of(gateway) == 12)
            memory = []
            received = 0
            begun = time.monotonic()
            drip = begun + 1
            while viewers_of(gateway) > 1:
                sequence = camera.frame()
                good.until("frame", sequence=sequence)
                good.seen.clear()  # 1.5 MB each: what is measured is the gateway's memory
                received += 1
                memory.append(psutil.Process().memory_info().rss)
                if time.monotonic() > drip:
                    drip += 1
                    with contextlib.suppress(OSError):
                        sleepers[0].recv(1)
                assert time.monotonic() - begun < slack(15), "the sleepers are still connected"
            assert received >= 3
            assert camera.skipped == 0
            # 11 × (one frame in the mailbox, one in the socket) of 1.5 MB would be allowed; growth is not.
            assert max(memory[len(memory) // 2 :]) - memory[len(memory) // 4] < 60e6
            for client in sleepers:
                client.close()


def viewers_of(gateway: Gateway) -> int:
    return int(gateway.ask("/api/cameras").json()["cameras"][0]["viewers"])


def test_slow_reader_gets_fewer_but_fresh_frames(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall", width=1280, height=720, noise=True) as (config, fakes):
        with Gateway(config) as gateway, gateway.watch("hall") as slow:
            slow.until("hello")
            slow.send(type="view", window=2)
            fakes["hall"].play(fps=20)
            ages, shown = [], 0
            begun = time.monotonic()
            while time.monotonic() - begun < 4:
                header, _ = slow.until("frame")
                shown += 1
                ages.append(time.time() * 1000 - header["capture_unix_ms"])
                time.sleep(0.4)
                slow.send(type="ack", frames=shown)
            gaps = [h["sequence"] for h, _ in slow.seen if h["type"] == "frame"]
            assert gaps[-1] - gaps[0] > 2 * len(gaps)  # most frames were skipped
            # At most two frames wait in the socket and the mailbox; they do not accumulate.
            assert ages[-1] < slack(2) * 1000


# --- hostile viewers


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x00\x01", 1003),
        (b"", 1003),
        ("", 1008),
        ("garbage", 1008),
        ('{"type":"view","size":"../../etc"}', 1008),
        ('{"type":"ping","t":' + "1" * 2000 + "}", 1008),
        ("x" * 10_000, 1009),
        (b"x" * 1_000_000, 1009),
        ("[" * 1000, 1008),
    ],
)
def test_garbage_closes_only_its_own_socket(tmp_path: Path, data: str | bytes, code: int) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        with gateway.watch("hall") as good, gateway.watch("hall") as bad:
            bad.until("hello")
            bad.socket.send(data)
            with pytest.raises(ConnectionClosed) as closed:
                bad.to_the_end()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == code
            good.until("frame", sequence=fakes["hall"].frame())


def test_flood_of_commands_is_disconnected(tmp_path: Path) -> None:
    with (
        cameras(tmp_path, "hall") as (config, _),
        Gateway(config) as gateway,
        gateway.watch("hall") as bad,
    ):
        with contextlib.suppress(ConnectionClosed):
            for number in range(5000):
                bad.send(type="ping", t=number)
        with pytest.raises(ConnectionClosed) as closed:
            bad.to_the_end()
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1008


@pytest.mark.parametrize("frame", [b"\x89\x80", b"\x00\x80"], ids=["pings", "fragments"])
def test_empty_frames_are_read_no_faster_than_commands(tmp_path: Path, frame: bytes) -> None:
    """They cost the gateway as much time as commands, but the limit on commands does not count them."""
    with cameras(tmp_path, "hall") as (config, _), Gateway(config) as gateway:
        client = raw_viewer(gateway, "hall")
        begun = time.monotonic()
        client.sendall(b"\x01\x80\x00\x00\x00\x00")  # a message begins
        client.sendall((frame + b"\x00" * 4) * 20_000)
        client.sendall(b"\x89\x84\x00\x00\x00\x00last")
        seen = b""
        while b"\x8a\x04last" not in seen:
            received = client.recv(65536)
            assert received
            seen = seen[-6:] + received
        assert time.monotonic() - begun > 2.5
        assert gateway.ask("/healthz").status == 200
        client.close()


@pytest.mark.parametrize(
    "noise",
    [
        b"\x00" * 2000,
        b"GET /ws/hall HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /ws/hall HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04" + b"\x00" * 100,
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000,
        b"GET " + b"/" * 60_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET ?x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://%5B/readyz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: " + b"x" * 100 + b"\r\n\r\n",
        b"GET /ws/hall HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: \xe9\r\n\r\n",
    ],
)
def test_noise_on_the_port(tmp_path: Path, noise: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with cameras(tmp_path, "hall") as (config, _), Gateway(config, QUICK) as gateway:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=15) as client:
            try:
                client.sendall(noise)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
            except OSError:
                pass
        assert gateway.ask("/healthz").status == 200
        assert gateway.stop() < slack(2)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "head",
    [b"Cookie: a=b\r\n" * 2000, b"A:\r\n" * 2000, b"Cookie: " + b"a=b; " * 4000 + b"\r\n"],
    ids=["cookies", "fields", "bytes"],
)
def test_requests_with_many_header_fields_are_refused_before_they_are_parsed(
    tmp_path: Path, head: bytes
) -> None:
    """Each one took 50 ms, so that a few connections delayed the probes by seconds."""
    with (
        cameras(tmp_path, "hall") as (config, _),
        Gateway(config, QUICK) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port), timeout=15) as client,
    ):
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n")
        assert client.recv(12) == b"HTTP/1.1 431"


@pytest.mark.parametrize("order", [1, -1])
def test_request_with_both_length_headers_is_refused(tmp_path: Path, order: int) -> None:
    """Request smuggling: a proxy may treat as the body what the gateway would read as another request."""
    lengths = [b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n"][::order]
    with (
        cameras(tmp_path, "hall") as (config, _),
        Gateway(config, QUICK) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port), timeout=15) as client,
    ):
        client.sendall(
            b"POST /login HTTP/1.1\r\nHost: localhost\r\n" + b"".join(lengths) + b"\r\n0\r\n\r\n"
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        answer = b""
        while received := client.recv(65536):
            answer += received
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.count(b"HTTP/1.1") == 1


def test_broken_websocket_frames(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, _), Gateway(config, QUICK) as gateway:
        for noise in (
            b"\xff" * 64,
            b"\x81\x05hello",  # not masked
            b"\x89\xff" + b"\xff" * 12,  # a ping of 2^64 bytes
            b"\x83\x80\x00\x00\x00\x00",
            b"\x81\xfe\xff\xff" + b"\x00" * 100,
        ):
            client = raw_viewer(gateway, "hall")
            client.sendall(noise)
            client.close()
        wait_for(lambda: viewers_of(gateway) == 0)


def test_unknown_cameras_and_too_many_viewers_are_refused(tmp_path: Path) -> None:
    with (
        cameras(tmp_path, "hall", gateway={"max_viewers": 2}) as (config, _),
        Gateway(config) as gateway,
    ):
        for camera in ("nobody", "..%2fhall", "%00", "hall/"):
            with pytest.raises(InvalidStatus) as refused:
                gateway.watch(camera)
            assert refused.value.response.status_code == 404
        first, second = gateway.watch("hall"), gateway.watch("hall")
        with pytest.raises(InvalidStatus) as refused:
            gateway.watch("hall")
        assert refused.value.response.status_code == 503
        first.socket.close()
        wait_for(lambda: viewers_of(gateway) == 1)
        with gateway.watch("hall") as third:
            third.until("hello")
        second.socket.close()


def test_more_connections_than_allowed_are_dropped(tmp_path: Path) -> None:
    few = Limits(connections=3, grace_s=0.5)
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config, few) as gateway:
        with gateway.watch("hall") as viewer:
            idle = [
                socket.create_connection(("127.0.0.1", gateway.port), timeout=5) for _ in range(6)
            ]
            dropped = 0
            for client in idle:
                try:
                    dropped += client.recv(1) == b""  # idle ones end after the keep-alive time
                except OSError:
                    dropped += 1
            assert dropped >= 4
            viewer.until("frame", sequence=fakes["hall"].frame())
            for client in idle:
                client.close()


def test_probes_and_viewers_keep_their_slots(tmp_path: Path) -> None:
    """More connections than slots, each with half a request, and reopened as soon as one is closed."""
    few = Limits(connections=30)
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config, few) as gateway:
        half = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: "
        attackers: list[socket.socket] = []
        with gateway.watch("hall") as viewer:
            for _ in range(10):
                while len(attackers) < 60:
                    attackers.append(socket.create_connection(("127.0.0.1", gateway.port)))
                    with contextlib.suppress(OSError):
                        attackers[-1].sendall(half)
                assert gateway.ask("/healthz").body == b"ok\n"
                for client in attackers[:20]:
                    client.close()
                del attackers[:20]
            viewer.until("frame", sequence=fakes["hall"].frame())
            for client in attackers:
                client.close()


def test_answers_without_a_login_keep_no_slots(tmp_path: Path) -> None:
    """Clients that did not read their answers counted as viewers, so that probes found no free connection."""
    few = Limits(connections=20, stall_s=60)
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123")
    section = {"token_file": str(token)}
    with (
        cameras(tmp_path, "hall", gateway=section) as (config, _),
        Gateway(config, few) as gateway,
    ):
        sleepers = []
        for _ in range(20):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", gateway.port))
            client.sendall(b"GET /static/viewer.css HTTP/1.1\r\nHost: localhost\r\n\r\n" * 900)
            sleepers.append(client)

        def all_wait() -> bool:
            before_s = time.process_time()  # the gateway runs in this process
            time.sleep(0.3)
            return time.process_time() - before_s < 0.03

        wait_for(all_wait, 60)
        for _ in range(3):
            assert gateway.ask("/healthz").body == b"ok\n"
        for client in sleepers:
            client.close()


# --- the end


def test_shutdown_is_immediate_for_listening_viewers(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes):
        gateway = Gateway(config).start()
        fakes["hall"].play()
        with gateway.watch("hall") as viewer:
            viewer.until("frame")
            assert gateway.stop() < slack(1)


def test_shutdown_is_quick_and_closes_sockets(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall", width=1280, height=720, noise=True) as (config, fakes):
        gateway = Gateway(config).start()
        fakes["hall"].play(fps=20)
        with gateway.watch("hall") as viewer:
            viewer.until("frame")
            sleeper = raw_viewer(gateway, "hall")
            wait_for(lambda: viewers_of(gateway) == 2)

            def blocked() -> bool:
                before = unread(sleeper)
                viewer.until("frame")
                return 0 < before == unread(sleeper)

            wait_for(blocked, what="a sleeper whose socket is full")
            assert gateway.stop() < slack(2.5)
            with pytest.raises(ConnectionClosed) as closed:
                viewer.to_the_end()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
            sleeper.close()
        assert not (config.run_dir / "gateway.json").exists()
