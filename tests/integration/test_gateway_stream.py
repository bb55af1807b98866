"""The WebSocket of a real gateway with real rings: frames, detections, states, slow and hostile viewers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import simplejpeg
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.gateway import GROUND, Gateway, cameras
from support.waiting import slack, wait_for
from tridetr.gateway.http_server import Limits
from tridetr.shm.boards import CameraState, SentryState
from tridetr.shm.frames import FrameWriter
from tridetr.telemetry import metrics

QUICK = Limits(connections=300, stall_s=1.0, silence_s=30.0, ping_s=10.0, grace_s=0.5)


def encoded(camera: str) -> float:
    return float(metrics.FRAMES_ENCODED.labels(camera)._value.get())


def test_first_messages_and_their_contents(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        camera = fakes["hall"]
        camera.say(SentryState.TRACKING)
        sequence = camera.frame()
        assert sequence is not None
        camera.result(sequence)
        with gateway.watch("hall") as viewer:
            hello, image = viewer.until("hello")
            assert (hello["camera"], hello["login"], image) == ("hall", False, b"")
            assert abs(hello["server_unix_ms"] - time.time() * 1000) < 2000
            state, _ = viewer.until("state")
            assert (state["state"], state["mode"]) == ("tracking", "standby")
            found, image = viewer.until("detections")
            assert image == b""
            assert (found["sequence"], found["frame_number"]) == (sequence, 1)
            assert found["boxes"][0]["label"] == "person"
            assert tuple(found["boxes"][0]["xyxy"]) == camera.truth(1)
            assert found["boxes"][0]["score"] == pytest.approx(0.9)
            assert (found["infer_ms"], found["total_ms"]) == (40.0, 50.0)
            frame, image = viewer.until("frame")
            assert (frame["sequence"], frame["frame_number"], frame["width"]) == (sequence, 1, 640)
            assert frame["capture_unix_ms"] == pytest.approx(
                camera.stamps[sequence][2] / 1e6, abs=0.01
            )
            picture = simplejpeg.decode_jpeg(image).astype(int)
            x1, y1, x2, y2 = camera.truth(1)
            assert np.abs(picture[(y1 + y2) // 2, (x1 + x2) // 2] - (255, 176, 133)).max() < 25
            assert np.abs(picture[50, 600] - GROUND[0]).max() < 12


def test_frames_and_states_follow(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        camera = fakes["hall"]
        camera.say(SentryState.STANDBY)
        with gateway.watch("hall") as viewer:
            viewer.until("state", state="standby")
            for _ in range(5):
                sequence = camera.frame()
                assert sequence is not None
                viewer.until("frame", sequence=sequence)
                camera.result(sequence)
                viewer.until("detections", sequence=sequence)
            camera.say(SentryState.VALIDATION)
            viewer.until("state", state="validation")
            camera.camera_state, camera.message = CameraState.OFFLINE, "connection refused"
            camera.say()
            status, _ = viewer.until("status", state="offline")
            assert status["message"] == "connection refused"


def test_dead_controller_and_dead_capture_are_reported(tmp_path: Path) -> None:
    """The boards of dead processes stay in shared memory: their last contents must not count as current."""
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        fakes["hall"].say(SentryState.TRACKING)
        with gateway.watch("hall") as viewer:
            viewer.until("status", state="live")
            viewer.until("state", state="tracking")

            def last(kind: str) -> dict[str, Any]:
                return next(header for header, _ in reversed(viewer.seen) if header["type"] == kind)

            begun = time.monotonic()
            while last("state")["state"] != "unknown" or last("status")["state"] != "offline":
                viewer.next()
            assert 2.5 < time.monotonic() - begun < slack(5.5)
            assert last("state")["reason"] == "no controller"
            assert "has stopped reporting" in last("status")["message"]


def test_late_viewer_of_a_silent_camera_sees_the_last_picture(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        sequence = fakes["hall"].frame()
        with gateway.watch("hall") as first, gateway.watch("hall") as second:
            first.until("frame", sequence=sequence)
            second.until("frame", sequence=sequence)
            with gateway.watch("hall") as third:
                third.until("frame", sequence=sequence)


def test_each_frame_is_encoded_once_and_only_for_viewers(tmp_path: Path) -> None:
    with cameras(tmp_path, "once") as (config, fakes), Gateway(config) as gateway:
        before = encoded("once")
        for _ in range(10):
            fakes["once"].frame()
        assert encoded("once") == before
        viewers = [gateway.watch("once") for _ in range(5)]
        sequences = []
        for _ in range(4):
            sequences.append(fakes["once"].frame())
            for viewer in viewers:
                viewer.until("frame", sequence=sequences[-1])
        frames = [{h["sequence"] for h, _ in v.seen if h["type"] == "frame"} for v in viewers]
        assert encoded("once") - before == len(set().union(*frames))
        for viewer in viewers:
            viewer.socket.close()
        wait_for(lambda: gateway.ask("/api/cameras").json()["cameras"][0]["viewers"] == 0)
        before = encoded("once")
        for _ in range(10):
            fakes["once"].frame()
        gateway.ask("/healthz")
        assert encoded("once") == before


def test_camera_jpeg_passes_through(tmp_path: Path) -> None:
    own = simplejpeg.encode_jpeg(np.full((480, 640, 3), 99, np.uint8), colorsubsampling="422")
    with cameras(tmp_path, "usb", jpeg_capacity=100_000) as (config, fakes):
        with Gateway(config) as gateway, gateway.watch("usb") as viewer:
            before = encoded("usb")
            sequence = fakes["usb"].frame(jpeg=own)
            header, image = viewer.until("frame", sequence=sequence)
            assert image == own
            assert header["original"] is True
            assert encoded("usb") == before


def test_a_viewer_gets_the_size_and_boxes_it_asks_for(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall", width=1280, height=720) as (config, fakes):
        with Gateway(config) as gateway, gateway.watch("hall") as viewer:
            camera = fakes["hall"]
            sequence = camera.frame()
            header, image = viewer.until("frame", sequence=sequence)
            assert (header["image_width"], header["width"]) == (1280, 1280)
            # The same frame again in the other size, though there is no new one.
            viewer.send(type="view", size="small")
            header, image = viewer.until("frame", sequence=sequence)
            assert (header["image_width"], header["image_height"], header["width"]) == (
                640,
                360,
                1280,
            )
            assert simplejpeg.decode_jpeg_header(image)[:2] == (360, 640)
            viewer.send(type="view", size="small", paused=True)
            camera.say(SentryState.TRACKING)
            viewer.until("state", state="tracking")
            unseen = camera.frame()
            assert unseen is not None
            camera.result(unseen)
            viewer.until("detections", sequence=unseen)
            viewer.send(type="view", size="full")
            viewer.until("frame", sequence=unseen)
            frames = [h["sequence"] for h, _ in viewer.seen if h["type"] == "frame"]
            assert frames == [sequence, sequence, unseen]


def test_first_picture_in_the_wanted_size(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall", width=1280, height=720) as (config, fakes):
        with Gateway(config) as gateway:
            fakes["hall"].frame()
            with gateway.watch("hall?size=small") as viewer:
                header, _ = viewer.until("frame")
                assert (header["image_width"], header["width"]) == (640, 1280)
            with pytest.raises(InvalidStatus) as refused:
                gateway.watch("hall?size=huge")
            assert refused.value.response.status_code == 400


def test_window_holds_frames_back_until_they_are_acknowledged(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        camera = fakes["hall"]
        camera.say()
        with gateway.watch("hall") as viewer:
            viewer.until("hello")
            viewer.send(type="view", size="full", window=1)
            viewer.send(type="ping", t=1)
            viewer.until("pong")
            first = camera.frame()
            viewer.until("frame", sequence=first)
            for _ in range(5):
                last = camera.frame()
                assert last is not None
                camera.result(last)
                viewer.until("detections", sequence=last)  # facts are not held back
            viewer.send(type="ack", frames=1)
            header, _ = viewer.until("frame")
            assert header["sequence"] == last  # the newest, not the next


def test_ping_measures_the_clock(tmp_path: Path) -> None:
    with (
        cameras(tmp_path, "hall") as (config, _),
        Gateway(config) as gateway,
        gateway.watch("hall") as viewer,
    ):
        viewer.send(type="ping", t=123.25)
        pong, _ = viewer.until("pong")
        assert pong["t"] == 123.25
        assert abs(pong["server_unix_ms"] - time.time() * 1000) < 1000


def test_camera_that_changes_its_size_and_restarts(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        camera = fakes["hall"]
        with gateway.watch("hall") as viewer:
            viewer.until("frame", sequence=camera.frame())
            camera.frames.resize(800, 608)
            camera.width, camera.height = 800, 608
            header, _ = viewer.until("frame", sequence=camera.frame())
            assert (header["width"], header["height"]) == (800, 608)
            camera.frames.close()
            camera.frames = FrameWriter(config.instance, "hall", width=800, height=608)
            viewer.until("frame", sequence=camera.frame())


def test_rate_is_limited(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall", gateway={"max_fps": 5.0}) as (config, fakes):
        with Gateway(config) as gateway, gateway.watch("hall") as viewer:
            viewer.until("hello")
            begun = time.monotonic()
            while time.monotonic() - begun < 2:
                fakes["hall"].frame()
                time.sleep(0.01)
            last = fakes["hall"].frame()
            viewer.until("frame", sequence=last)
            frames = [h for h, _ in viewer.seen if h["type"] == "frame"]
            assert len(frames) <= 5 * (time.monotonic() - begun) + 2


def test_invalid_values_in_a_result_are_not_forwarded(tmp_path: Path) -> None:
    """A faulty detector may write anything: there must be no NaN in JSON and no box outside of the picture."""
    nan, infinity = float("nan"), float("inf")
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        with gateway.watch("hall") as viewer:
            sequence = fakes["hall"].frame()
            assert sequence is not None
            fakes["hall"].result(
                sequence,
                (nan, 0, 10, 10, 0.5, 1, 0),
                (0, 0, 10, infinity, 0.5, 1, 0),
                (0, 0, 10, 10, nan, 1, 0),
                (-1e38, -5, 1e38, 1e38, 0.5, 65535, 7),
            )
            header, _ = viewer.until("detections", sequence=sequence)
            assert [box["xyxy"] for box in header["boxes"]][1:] == [[0, 0, 640, 480]]
            assert header["boxes"][1]["label"] == "class 65535"
            assert gateway.ask("/snapshot/hall.jpg?boxes=1").status == 200


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
    ],
)
def test_noise_on_the_port(tmp_path: Path, noise: bytes) -> None:
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


def test_the_process_serves_all_metrics_and_ends_on_sigterm(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes):
        file = tmp_path / "config.yaml"
        file.write_text(
            json.dumps(
                {
                    "instance": config.instance,
                    "cameras": {"hall": {"source": "synthetic"}},
                    "gateway": {"port": 0},
                    "run_dir": str(config.run_dir),
                    "state_dir": str(config.state_dir),
                }
            )
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "tridetr", "serve", "--config", str(file)],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            address = config.run_dir / "gateway.json"
            wait_for(address.exists, 60)
            gateway = Gateway(config, url=json.loads(address.read_text())["url"].rstrip("/"))
            fakes["hall"].play()
            with gateway.watch("hall") as viewer:
                for _ in range(3):
                    viewer.until("frame")
                text = gateway.ask("/metrics").body.decode()
                assert 'tridetr_viewers{camera="hall"} 1.0' in text
                sent = next(
                    line
                    for line in text.splitlines()
                    if line.startswith("tridetr_viewer_frames_total")
                )
                assert float(sent.split()[-1]) >= 3
                process.terminate()
                assert process.wait(60) == 0
                assert not address.exists()
        finally:
            process.kill()
            process.wait()
