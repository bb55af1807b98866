"""Requests to HTTP cameras: when CA certificates are loaded, and that redirects to HTTPS are verified."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, quote_plus
from urllib.request import parse_http_list, parse_keqv_list

import pytest

from support.http_camera import Answer, Request, http_camera
from support.mosquitto import free_port, make_certificates
from tridetr.capture.sources.connect import connect
from tridetr.capture.sources.http_request import HttpAddress, get, refuse_unsafe
from tridetr.capture.sources.playlist import PlayedSegments
from tridetr.capture.sources.pump import Feed
from tridetr.config import CameraSection
from tridetr.errors import SourceError
from tridetr.hang_up import HangUp


def address(url: str) -> HttpAddress:
    return HttpAddress(url, url, None, None, 2.0, HangUp())


def page(request: Request) -> None:
    request.head("text/plain")
    request.send(b"hello")


def test_a_plain_request_loads_no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took 20 ms of CPU time for each picture of a camera that is polled."""
    monkeypatch.setattr(ssl, "create_default_context", lambda: pytest.fail("loads certificates"))
    with http_camera(page) as camera, get(address(camera.url())) as response:
        assert response.read() == b"hello"


def test_the_certificate_of_a_redirect_target_is_verified(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "tls")
    with http_camera(page, (made.certificate, made.key)) as other:

        def redirect(request: Request) -> None:
            request.head(status=302, Location=other.url(scheme="https"))

        with (
            http_camera(redirect) as camera,
            pytest.raises(SourceError, match="certificate is not trusted"),
        ):
            get(address(camera.url()))
    assert not other.requests


def opened(answer: Answer) -> Feed:
    with http_camera(answer) as camera:
        section = CameraSection.model_validate({"source": camera.url("/live"), "timeout_s": 2})
        return connect(section, HangUp(), PlayedSegments())


def logging_in(challenge: str, user: str, password: str, **more: str) -> tuple[str, str]:
    """Return the Authorization header that a camera with one challenge, or more, gets, and what `get` raised."""

    def camera(request: Request) -> None:
        if "Authorization" in request.headers:
            return page(request)
        return request.head(status=401, WWW_Authenticate=challenge, **more, Content_Length="0")

    message = ""
    with http_camera(camera) as host:
        place = replace(address(host.url("/live")), login=(user, password))
        try:
            get(place).close()
        except SourceError as error:
            message = str(error)
        return host.requests[-1][1], message


@pytest.mark.parametrize("realm", ["camera", "Caméra"])
def test_a_digest_login_beyond_ascii_is_utf_8(realm: str) -> None:
    """RFC 7616. It was taken for a broken answer of the camera."""
    challenge = f'Digest realm="{realm}", nonce="n"'
    sent, message = logging_in(challenge, "владелец", "пароль")
    assert message == ""
    words = parse_keqv_list(parse_http_list(sent.partition(" ")[2]))
    assert words["username"].encode("latin-1").decode() == "владелец"
    assert words["realm"] == realm
    user = "владелец:".encode() + realm.encode("latin-1") + ":пароль".encode()
    secret, data = (hashlib.md5(text).hexdigest() for text in (user, b"GET:/live"))
    assert words["response"] == hashlib.md5(f"{secret}:n:{data}".encode()).hexdigest()


def test_a_digest_login_with_sha_256() -> None:
    """RFC 7616. Where the camera also offered Basic, the password was sent in the clear."""
    challenge = 'Digest realm="c", nonce="n", algorithm=SHA-256'
    sent, message = logging_in(
        challenge, "viewer", "sekret", **{"WWW-Authenticate": 'Basic realm="c"'}
    )
    assert message == ""
    words = parse_keqv_list(parse_http_list(sent.partition(" ")[2]))
    secret, data = (hashlib.sha256(text).hexdigest() for text in (b"viewer:c:sekret", b"GET:/live"))
    assert words["response"] == hashlib.sha256(f"{secret}:n:{data}".encode()).hexdigest()


@pytest.mark.parametrize(
    "challenge",
    [
        "Digest realm=,",
        "Digest realm",
        'Digest realm="c", nonce="n", qop="auth-int"',
        'Digest realm="c", nonce="n", algorithm=MD4',
        "Negotiate",
        "\xa0",
    ],
)
def test_a_login_that_is_not_understood_is_a_clear_error(challenge: str) -> None:
    sent, message = logging_in(challenge, "viewer", "sekret")
    assert sent == ""
    assert "requires a login in a way that is not supported (" in message


def test_a_content_type_is_shown_without_control_characters() -> None:
    def describe(request: Request) -> None:
        request.head(f"image/\x1b[2J{'x' * 500}jpeg")
        request.send(b"\xff\xd8\xff nothing")

    with pytest.raises(SourceError, match="no JPEG in the response") as error:
        opened(describe)
    assert "(image/?[2jxxxx" in str(error.value)
    assert len(str(error.value)) < 250


def test_a_camera_cannot_make_ffmpeg_listen() -> None:
    """A description of a session (SDP) opened UDP ports on every interface."""
    lines = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=x", "c=IN IP4 0.0.0.0", "t=0 0"]
    lines += [f"m=video {free_port() & ~1} RTP/AVP 96", "a=rtpmap:96 H264/90000", ""]

    def describe(request: Request) -> None:
        request.head("application/sdp")
        request.send("\r\n".join(lines).encode())

    with pytest.raises(SourceError, match="cannot open"):
        opened(describe)


@pytest.mark.parametrize("url", ["http://[bad", "//[::1", "http://h\u2100/", "http://a b/"])
@pytest.mark.parametrize("tag", ["#EXT-X-STREAM-INF:BANDWIDTH=9", "#EXTINF:2,"])
def test_an_invalid_url_in_a_playlist_is_reported(url: str, tag: str) -> None:
    def playlist(request: Request) -> None:
        request.head("application/vnd.apple.mpegurl")
        sequence = f"#EXT-X-MEDIA-SEQUENCE:{time.monotonic_ns()}"  # a camera that runs
        request.send(f"#EXTM3U\n{sequence}\n#EXT-X-TARGETDURATION:2\n{tag}\n{url}\n".encode())

    with pytest.raises(SourceError, match="cannot open") as error:
        opened(playlist)
    assert "ValueError" not in str(error.value)


@pytest.mark.parametrize("password", ["a+b c", "a+b%c", "a+b&c", "a+b\u00fc", "plain", "%2B"])
@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text,
        quote,
        quote_plus,
        lambda text: quote(text, safe="+"),
        lambda text: quote(quote(text, safe="+"), safe="+"),
        lambda text: quote(quote_plus(text)),
    ],
)
def test_however_a_redirect_encodes_the_password_it_is_found(
    password: str, encode: Callable[[str], str]
) -> None:
    """A password with "+" and something else that is encoded went to any host."""
    camera = replace(address(f"http://cam/?p={quote(password)}"), secret=password)
    with pytest.raises(SourceError, match="another host, port or scheme with the password"):
        refuse_unsafe(camera, camera.url, f"http://other/got/{encode(password)}/v")
