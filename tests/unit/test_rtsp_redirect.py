"""An RTSP camera's password stays with the configured host when the camera redirects to another one."""

from __future__ import annotations

import base64
import contextlib
import re
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.mosquitto import make_certificates
from support.tcp_server import tcp_server
from tridetr.capture.capture_process import Capture
from tridetr.capture.reconnect import ReconnectDelays
from tridetr.capture.sources.base import LoginRefusedError, LoginTakenError
from tridetr.capture.sources.connect import connect
from tridetr.capture.sources.playlist import PlayedSegments
from tridetr.capture.sources.pump import PacketPump
from tridetr.capture.sources.rtsp_redirect import refuse_followed
from tridetr.config import CameraSection, Config
from tridetr.errors import SourceError
from tridetr.hang_up import HangUp
from tridetr.shm.boards import CameraState

LOGIN = base64.b64encode(b"viewer:sekret").decode()
BASIC_HEADER = 'WWW-Authenticate: Basic realm="camera"'
BASIC = f"401 Unauthorized\r\n{BASIC_HEADER}"
MALFORMED = "401 Unauthorized\r\nWWW-Authenticate: Digest realm=,"
DIGEST = '401 Unauthorized\r\nWWW-Authenticate: Digest realm="camera", nonce="n1", qop="auth"'


@contextlib.contextmanager
def rtsp_host(
    answer: Callable[[str], str], tls: ssl.SSLContext | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Serve RTSP; yields the port and the requests received. `answer` returns status, headers and perhaps a body."""
    requests: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def setup(self) -> None:
            if tls is not None:
                self.request = tls.wrap_socket(self.request, server_side=True)
            super().setup()

        def finish(self) -> None:
            super().finish()
            self.request.close()

        def handle(self) -> None:
            while line := self.rfile.readline().decode():
                text = line
                while (more := self.rfile.readline().decode()).strip():
                    text += more
                requests.append(text)
                number = text.partition("CSeq: ")[2].split()[0]
                head, _, body = answer(text).partition("\r\n\r\n")
                reply = f"RTSP/1.0 {head}\r\nCSeq: {number}\r\n\r\n{body}"
                self.wfile.write(reply.encode())

    with tcp_server(Handler) as port:
        yield port, requests


def open_camera(
    port: int,
    folder: Path,
    scheme: str = "rtsp",
    *,
    with_login: bool = True,
    password: str = "sekret",
    hang_up: HangUp | None = None,
) -> None:
    login = folder / "login"
    login.write_text(f"viewer:{password}\n", encoding="utf-8")
    connect(
        CameraSection.model_validate(
            {
                "source": f"{scheme}://127.0.0.1:{port}/1",
                "credentials_file": str(login) if with_login else None,
                "tls_verify": scheme == "rtsp",
                "timeout_s": 3,
            }
        ),
        hang_up or HangUp(),
        PlayedSegments(),
    )


@pytest.mark.parametrize("challenge", ["", BASIC, DIGEST, MALFORMED + "\r\n" + BASIC_HEADER])
@pytest.mark.parametrize("method", ["OPTIONS", "DESCRIBE"])
def test_the_password_does_not_follow_a_redirect(
    tmp_path: Path, challenge: str, method: str
) -> None:
    with rtsp_host(lambda _: BASIC) as (other, requests):

        def camera(request: str) -> str:
            if challenge and "Authorization" not in request:
                return challenge
            if request.startswith(method):
                return f"302 Found\r\nLocation: rtsp://127.0.0.1:{other}/2"
            return "200 OK\r\nPublic: DESCRIBE"

        with (
            rtsp_host(camera) as (port, asked),
            pytest.raises(SourceError, match=f"redirects to rtsp://127.0.0.1:{other}, which"),
        ):
            open_camera(port, tmp_path)
    assert requests
    assert not any("Authorization" in request for request in requests)
    assert any("Authorization" in request for request in asked) == bool(challenge)


def redirecting_ffmpeg(method: str, redirect: str, request: str) -> str:
    """Answer as a camera that redirects one request of FFmpeg, but not the same one of tridetr."""
    if LOGIN not in request:
        return BASIC
    if request.startswith(method) and "User-Agent: tridetr" not in request:
        return f"302 Found\r\nLocation: {redirect}"
    if request.startswith("DESCRIBE"):
        sdp = "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:1\r\n"
        kind = f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}"
        return f"200 OK\r\n{kind}\r\n\r\n{sdp}"
    return "200 OK\r\nPublic: DESCRIBE, SETUP, PLAY"


@pytest.mark.parametrize("method", ["OPTIONS", "DESCRIBE"])
def test_a_redirect_that_only_ffmpeg_meets_is_reported_and_forgotten(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg follows it with user and password, and each later connection went to that host, for good."""
    is_forged = True

    def camera(request: str) -> str:
        if is_forged:
            return redirecting_ffmpeg(method, f"rtsp://127.0.0.1:{other}/2", request)
        return "404 Not Found"

    with rtsp_host(lambda _: BASIC) as (other, requests), rtsp_host(camera) as (port, asked):
        with pytest.raises(
            LoginTakenError, match=f"redirected FFmpeg to rtsp://127.0.0.1:{other}, .*Change the"
        ):
            open_camera(port, tmp_path)
        # Nobody may have awaited it; the next attempt reports it, however late
        late = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600)
        monkeypatch.setattr("tridetr.capture.sources.rtsp_redirect.time", late)
        asked.clear()
        for _ in range(2):
            with pytest.raises(LoginTakenError) as error:
                open_camera(port, tmp_path)
        assert not asked
        assert ReconnectDelays(1.0).failed(error.value, 0.0) >= 60
        is_forged = False
        requests.clear()
        asked.clear()
        with pytest.raises(SourceError, match="check the path"):
            open_camera(port, tmp_path)
    assert asked
    assert not requests


@pytest.mark.parametrize("method", ["OPTIONS", "DESCRIBE"])
def test_an_attempt_that_is_given_up_does_not_connect_with_the_login(
    tmp_path: Path, method: str
) -> None:
    """FFmpeg went on, and sent it to another host while the next attempt was awaited."""
    hang_up = HangUp()

    def camera(request: str) -> str:
        if request.startswith(method):
            hang_up.set()
        return "200 OK\r\nPublic: DESCRIBE"

    with rtsp_host(camera) as (port, requests):
        with pytest.raises(SourceError, match="gave up waiting"):
            open_camera(port, tmp_path, hang_up=hang_up)
        assert requests
        assert all("User-Agent: tridetr" in request for request in requests)
        requests.clear()
        with pytest.raises(SourceError):
            open_camera(port, tmp_path)
        assert "User-Agent: tridetr" in requests[0]  # what it did not answer is not known
        requests.clear()
        with pytest.raises(SourceError, match="gave up waiting"):
            open_camera(port, tmp_path, hang_up=hang_up)
        assert not requests


def test_ffmpeg_follows_no_redirect_once_the_attempt_is_given_up(tmp_path: Path) -> None:
    is_over = threading.Event()

    def camera(request: str) -> str:
        if "User-Agent: tridetr" not in request:
            is_over.wait(20)
        return redirecting_ffmpeg("OPTIONS", f"rtsp://127.0.0.1:{other}/2", request)

    with rtsp_host(lambda _: BASIC) as (other, requests), rtsp_host(camera) as (port, asked):
        ended = threading.Event()

        def connected(hang_up: HangUp) -> Any:
            try:
                open_camera(port, tmp_path, hang_up=hang_up)
            finally:
                ended.set()

        pump = PacketPump(connected, "cam", timeout_s=0.5)
        with pytest.raises(SourceError, match="gave up waiting"):
            pump.start(threading.Event())
        is_over.set()
        assert ended.wait(20)
    assert any("User-Agent: tridetr" not in request for request in asked)
    assert not requests


def test_the_reason_for_a_long_wait_is_always_logged(caplog: pytest.LogCaptureFixture) -> None:
    """That a login was taken was not, as the attempt in which it was taken had been given up just before."""
    stop = threading.Event()
    status, source = Mock(), Mock()
    source.open.side_effect = [SourceError("gave up waiting"), LoginTakenError("taken")]

    def offline(_: CameraState, message: str) -> None:
        if message == "taken":
            stop.set()

    status.state.side_effect = offline
    config = Config.model_validate({"cameras": {"cam": {"source": "rtsp://127.0.0.1/1"}}})
    Capture(config, "cam", stop, source, status, Mock(), Mock()).run()
    logged = [record.getMessage().partition(";")[0] for record in caplog.records]
    assert logged == ["gave up waiting", "taken"]


def test_a_login_that_is_taken_is_reported_although_the_port_speaks_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tridetr.capture.sources.connect.speaks_tls", lambda *_: True)
    with rtsp_host(lambda _: BASIC) as (other, _):
        answer = partial(redirecting_ffmpeg, "DESCRIBE", f"rtsp://127.0.0.1:{other}/2")
        with rtsp_host(answer) as (port, _), pytest.raises(LoginTakenError):
            open_camera(port, tmp_path)


@pytest.mark.parametrize(
    "target", ["rtsp://{host}x/2", "rtsp:{host}/2", "rtsp://{own} @{host}/2", "rtsp:/{host}/2"]
)
def test_an_odd_redirect_that_only_ffmpeg_understands_is_reported_too(
    tmp_path: Path, target: str
) -> None:
    """The host got the login at each attempt, many times a minute."""

    def camera(request: str) -> str:
        location = target.format(host=f"127.0.0.1:{other}", own=f"127.0.0.1:{port}")
        return redirecting_ffmpeg("DESCRIBE", location, request)

    with rtsp_host(lambda _: BASIC) as (other, _), rtsp_host(camera) as (port, _):
        with pytest.raises(LoginTakenError, match="may have received"):
            open_camera(port, tmp_path)


@pytest.mark.parametrize(
    "odd",
    [
        "rtsp://evil:24515[::1]:554/1",
        "rtsp://[::1]evil:554/1",
        "rtsp://[::1]@evil:554/1",
        "rtsp://user@[::1]:554/1",
        "rtsp://[::1]:554:24515/1",
        "rtsp://[::1]\t:554/1",
        "rtsp://[::1]?@evil/1",
        "rtsp://[::1]:554\\@evil/1",
        "RTSP://[::1]:554/1",
        "rtsp:[::1]:554/1",
        "//evil/1",
        "/x:evil:24515/1",
        "rtsp://[127.0.0.1]:24515/1",
        "rtsp://[::1.]:554/1",
        "rtsp://[1:2]:554/1",
        "rtsp://evil:99999/1",
        "rtsp://evil:0/1",
        "rtsp://./1",
        "rtsp://%65vil/1",
        "1",
        "",
    ],
)
def test_only_plain_addresses_count_as_the_same_host(odd: str) -> None:
    """FFmpeg and Python do not take each odd address for the same host."""
    with pytest.raises(LoginTakenError):
        refuse_followed("rtsp://a:b@[::1]:554/1", "rtsp://a:b@[::1]:554/1", odd, "camera")


PARTS = [
    "rtsp",
    "rtsps",
    ":",
    "//",
    "/",
    "[",
    "]",
    "::1",
    "127.0.0.1",
    "evil",
    "cam",
    "554",
    "99999",
]
PARTS += [
    "@",
    "?",
    "#",
    "\\",
    "\t",
    " ",
    "%31",
    ".",
    "x",
    "rtsp://cam",
    "rtsp://cam:554/",
    "0",
    "-1",
]


@given(st.lists(st.sampled_from(PARTS), max_size=8).map("".join))
def test_any_other_address_counts_as_another_host(location: str) -> None:
    configured = "rtsp://a:b@cam:554/1"
    try:
        refuse_followed(configured, configured, location, "camera")
    except LoginTakenError:
        return
    assert re.fullmatch(r"rtsp://cam(:0*554)?(/[!-~]*)?|/(?!/)[!-9;-~]*", location)


@pytest.mark.parametrize("plain", ["rtsp://[::1]/2", "rtsp://[::1]:554//2?a=b", "/2", "/2//3"])
def test_plain_addresses_on_the_same_host_are_followed(plain: str) -> None:
    refuse_followed("rtsp://a:b@[::1]:554/1", "rtsp://a:b@[::1]:554/1", plain, "camera")


def test_ffmpeg_follows_no_redirect_of_the_setup(tmp_path: Path) -> None:
    with rtsp_host(lambda _: BASIC) as (other, requests):
        answer = partial(redirecting_ffmpeg, "SETUP", f"rtsp://127.0.0.1:{other}/2")
        with rtsp_host(answer) as (port, asked), pytest.raises(SourceError):
            open_camera(port, tmp_path)
    assert any(request.startswith("SETUP") for request in asked)
    assert not requests


def test_a_redirect_on_the_same_host_that_only_ffmpeg_meets_is_followed(tmp_path: Path) -> None:
    def camera(request: str) -> str:
        if "/2 " in request.partition("\r\n")[0]:
            return "404 Not Found"
        return redirecting_ffmpeg("DESCRIBE", f"rtsp://127.0.0.1:{port}/2", request)

    with rtsp_host(camera) as (port, requests), pytest.raises(SourceError) as error:
        open_camera(port, tmp_path)
    assert any("/2 " in request for request in requests)
    assert "password" not in str(error.value)


def test_a_redirect_on_the_same_host_keeps_the_login(tmp_path: Path) -> None:
    def camera(request: str) -> str:
        if "/1 " in request.partition("\r\n")[0]:
            return "301 Moved\r\nLocation: /2"
        if LOGIN not in request:
            return BASIC
        return "200 OK\r\nPublic: DESCRIBE" if request.startswith("OPTIONS") else "404 Not Found"

    with rtsp_host(camera) as (port, requests), pytest.raises(SourceError) as error:
        open_camera(port, tmp_path)
    assert "login" not in str(error.value)
    assert any("/2 " in request and LOGIN in request for request in requests)


def test_a_refused_login_is_sent_once(tmp_path: Path) -> None:
    with (
        rtsp_host(lambda _: BASIC) as (port, requests),
        pytest.raises(LoginRefusedError, match="login refused"),
    ):
        open_camera(port, tmp_path)
    assert sum("Authorization" in request for request in requests) == 1


@pytest.mark.parametrize("target", ["http://127.0.0.1/", "file:///etc/passwd", "rtsp://", "//["])
def test_a_redirect_to_something_else_is_refused(tmp_path: Path, target: str) -> None:
    with (
        rtsp_host(lambda _: f"302 Found\r\nLocation: {target}") as (port, _),
        pytest.raises(SourceError, match="not rtsp://"),
    ):
        open_camera(port, tmp_path)


def test_a_redirect_of_an_encrypted_camera_to_plain_rtsp_is_refused() -> None:
    configured, plain = "rtsps://cam/1", "rtsp://cam/1"
    for url, location in ((configured, plain), (configured, "rtsp://other/"), (plain, "/2")):
        with pytest.raises(SourceError, match=r"redirects to rtsp://.*, which is not encrypted"):
            refuse_followed(configured, url, location, "camera")
    for url, location in ((configured, "/2"), (configured, "rtsps://other/")):
        refuse_followed(configured, url, location, "camera")


@pytest.mark.parametrize("with_login", [True, False])
def test_an_encrypted_camera_is_not_followed_to_plain_rtsp(
    tmp_path: Path, with_login: bool
) -> None:
    made = make_certificates(tmp_path / "tls")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(made.certificate, made.key)
    with rtsp_host(lambda _: BASIC) as (other, requests):
        redirect = f"302 Found\r\nLocation: rtsp://127.0.0.1:{other}/2"
        with (
            rtsp_host(lambda _: redirect, tls) as (port, _),
            pytest.raises(SourceError, match="which is not encrypted"),
        ):
            open_camera(port, tmp_path, "rtsps", with_login=with_login)
    assert not any("Authorization" in request for request in requests)


def test_a_login_that_ffmpeg_would_cut_is_refused(tmp_path: Path) -> None:
    """The camera refused it, and the message said that it was wrong."""
    with rtsp_host(lambda _: BASIC) as (port, requests):
        with pytest.raises(SourceError, match="shorter password") as error:
            open_camera(port, tmp_path, password="ä#/@:%? +&" * 5)
        assert "%2F" not in str(error.value)
        assert not requests
        with pytest.raises(LoginRefusedError):
            open_camera(port, tmp_path, password="k" * 120)
    assert len(requests) >= 2


def test_a_negative_length_is_no_body(tmp_path: Path) -> None:
    """Reading -1 bytes would read until the camera closes the connection."""

    def camera(request: str) -> str:
        if request.startswith("OPTIONS"):
            return "200 OK\r\nContent-Length: -1"
        return "302 Found\r\nLocation: http://127.0.0.1/"

    with rtsp_host(camera) as (port, _), pytest.raises(SourceError, match="not rtsp://"):
        open_camera(port, tmp_path)


def test_endless_redirects_end(tmp_path: Path) -> None:
    with (
        rtsp_host(lambda _: "302 Found\r\nLocation: /1") as (port, _),
        pytest.raises(SourceError, match="redirects more than"),
    ):
        open_camera(port, tmp_path)


@pytest.mark.parametrize("answer", ["200 OK", f"{DIGEST}, algorithm=SHA-512-256"])
def test_a_camera_of_one_connection_is_not_asked_before_every_attempt(
    tmp_path: Path, answer: str
) -> None:
    """It may still be busy with the ended connection that asked, each time when the video is opened."""
    with rtsp_host(lambda _: answer) as (port, requests):
        for _ in range(3):
            with pytest.raises(SourceError):
                open_camera(port, tmp_path)
    asked = [r.split()[0] for r in requests if "User-Agent: tridetr" in r]
    assert len(asked) == len(set(asked))


def test_without_a_login_the_camera_is_not_asked(tmp_path: Path) -> None:
    with rtsp_host(lambda _: "404 Not Found") as (port, requests), pytest.raises(SourceError):
        connect(
            CameraSection.model_validate({"source": f"rtsp://127.0.0.1:{port}/1", "timeout_s": 3}),
            HangUp(),
            PlayedSegments(),
        )
    assert requests
    assert not any("User-Agent: tridetr" in request for request in requests)
