"""MJPEG over a link that is too slow: pictures that are stored on their way, and cameras that must be left alone."""

from __future__ import annotations

import base64
import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.capture_rig import Rig, Seen, capturing
from support.clips import jpegs
from support.http_camera import Request, http_camera
from support.slow_link import slow_link
from support.waiting import slack, wait_for
from tridetr.capture.sources import lateness
from tridetr.shm.boards import CameraState, CameraStatus

_PICTURES = jpegs(10)
_SIZE = 10_000  # bytes of a picture
_FPS = 10
_RATE = 0.5 * _SIZE * _FPS  # of a link that carries half of the stream
_LOGIN = "viewer:secret"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WINDOW_S", 1.5), ("LATE_S", 0.8), ("FIRST_WAIT_S", 1.0)):
        monkeypatch.setattr(lateness, name, value)


def _picture(number: int) -> bytes:
    """Return a picture with its number in a comment: all connections get the same bytes."""
    jpeg = _PICTURES[number % len(_PICTURES)]
    text = b"%016d" % number + bytes(_SIZE - len(jpeg) - 20)
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


def _number(frame: Seen) -> int:
    return int(frame.jpeg[6:22])


def _begin(request: Request) -> None:
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    request.head("multipart/x-mixed-replace; boundary=frame")


def _send(request: Request, number: int) -> None:
    request.send(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + _picture(number) + b"\r\n")


def _at_its_rate(began_s: float) -> Callable[[Request], None]:
    """Answer with the newest picture at each tick, as far as the connection takes it; a login is required."""
    basic = "Basic " + base64.b64encode(_LOGIN.encode()).decode()

    def answer(request: Request) -> None:
        if request.headers.get("Authorization") != basic:
            request.head(status=401, WWW_Authenticate='Basic realm="c"', Content_Length="0")
            return
        _begin(request)
        number = int((time.monotonic() - began_s) * _FPS)
        while True:
            _send(request, number)
            number = max(number + 1, int((time.monotonic() - began_s) * _FPS))
            time.sleep(max(0.0, began_s + number / _FPS - time.monotonic()))

    return answer


def _as_fast_as_it_can(request: Request) -> None:
    """Answer with one picture after the other, without a pause: the link is always full."""
    _begin(request)
    while True:
        _send(request, time.monotonic_ns())


class _States(threading.Thread):
    """Records how state and message of a camera change."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[CameraState, str]] = []
        self._rig = rig

    def run(self) -> None:
        while not self._rig.stop.wait(0.02):
            status = self._rig.status()
            found = (status.state, status.message) if status is not None else None
            if found is not None and found[0] is not CameraState.STARTING:
                self.seen += [found] if self.seen[-1:] != [found] else []


def test_pictures_that_are_stored_on_their_way_do_not_get_older_and_older(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each came later than the one before, without a limit, and was shown as live."""
    (tmp_path / "secret").write_text(_LOGIN)
    began_s = time.monotonic()

    def age_s(frame: Seen) -> float:
        return frame.stamp.capture_monotonic_ns / 1e9 - began_s - _number(frame) / _FPS

    def late() -> CameraStatus | None:
        status = rig.status()
        return status if status is not None and "late" in status.message else None

    with (
        caplog.at_level(logging.WARNING),
        http_camera(_at_its_rate(began_s)) as camera,
        slow_link(camera.port, _RATE, stores=True) as link,
        capturing(
            tmp_path,
            f"http://127.0.0.1:{link.port}/v",
            credentials_file=str(tmp_path / "secret"),
        ) as rig,
    ):
        states = _States(rig)
        states.start()
        status = wait_for(late, slack(8), "the message")
        assert "proxy_buffering off" in status.message
        before = len(camera.requests)
        first = len(rig.frames)
        since_s = time.monotonic()
        wait_for(lambda: time.monotonic() - since_s > 6 or None, 10)
        ages = [age_s(frame) for frame in rig.frames[first:]]
        reopened = (len(camera.requests) - before) / 2  # each without the login, and then with it
    assert len(ages) > 15
    assert max(ages) < slack(2.2)
    assert 2 <= reopened <= 4
    assert before <= 6  # the camera's connection, the second one, and perhaps the first new one
    assert states.seen == [(CameraState.LIVE, ""), (CameraState.LIVE, status.message)]
    assert status.reconnects == 0
    assert sum("late" in record.getMessage() for record in caplog.records) == 1


def test_a_camera_that_sends_what_the_link_takes_is_not_opened_again(tmp_path: Path) -> None:
    with (
        http_camera(_as_fast_as_it_can) as camera,
        slow_link(camera.port, _RATE, stores=False) as link,
        capturing(tmp_path, f"http://127.0.0.1:{link.port}/v") as rig,
    ):
        wait_for(lambda: len(camera.requests) == 2, slack(10), "a second connection")
        rig.wait_frames(12)  # 2.4 s
        status = rig.wait_state(CameraState.LIVE)
    assert (status.reconnects, status.message) == (0, "")
    assert len(camera.requests) <= 3  # perhaps one that compares again


@pytest.mark.parametrize("way", ["refused", "preferred"])
def test_a_camera_with_a_single_connection_is_not_harmed_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A second connection is refused, or ends the first one."""
    monkeypatch.setattr(lateness, "FIRST_WAIT_S", 60.0)
    connected: list[Request] = []

    def answer(request: Request) -> None:
        if connected and way == "refused":
            request.head(status=503)
            return
        for other in connected:
            other.connection.shutdown(socket.SHUT_RDWR)
        connected.append(request)
        try:
            _as_fast_as_it_can(request)
        finally:
            connected.remove(request)

    def compared() -> bool:
        return len(camera.requests) >= 2

    with (
        http_camera(answer) as camera,
        slow_link(camera.port, _RATE, stores=False) as link,
        capturing(tmp_path, f"http://127.0.0.1:{link.port}/v") as rig,
    ):
        wait_for(compared, slack(10), "a second connection")
        rig.wait_frames(12)
        status = rig.wait_state(CameraState.LIVE)
        asked = len(camera.requests)
    assert asked == (2 if way == "refused" else 3)
    assert status.reconnects == (0 if way == "refused" else 1)
    assert status.message == ""


def test_after_a_refused_login_there_is_no_further_second_connection(tmp_path: Path) -> None:
    def answer(request: Request) -> None:
        if len(camera.requests) > 1:
            request.head(status=401, WWW_Authenticate='Basic realm="c"', Content_Length="0")
        else:
            _as_fast_as_it_can(request)

    with (
        http_camera(answer) as camera,
        slow_link(camera.port, _RATE, stores=False) as link,
        capturing(tmp_path, f"http://127.0.0.1:{link.port}/v") as rig,
    ):
        wait_for(lambda: len(camera.requests) == 2, slack(10), "a second connection")
        rig.wait_frames(25)  # 5 s; the next one would come after 1 s, and then after 2 s
        status = rig.wait_state(CameraState.LIVE)
        assert len(camera.requests) == 2
    assert (status.reconnects, status.message) == (0, "")
