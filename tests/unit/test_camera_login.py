"""User and password of a camera are for its own scheme, host and port."""

from __future__ import annotations

import pytest

from tridetr.capture.sources.login import Login

BASIC = ('Basic realm="camera"',)
DIGEST = ('Digest realm="camera", nonce="1"',)


@pytest.mark.parametrize("challenges", [BASIC, DIGEST])
@pytest.mark.parametrize(
    ("configured", "asked", "is_sent"),
    [
        ("https://cam/", "https://cam/video", True),
        ("https://cam/", "https://cam:443/video", True),
        ("https://cam/", "http://cam/video", False),  # a password in clear text
        ("https://cam/", "http://cam:443/video", False),
        ("https://cam:8443/", "http://cam:8443/video", False),
        ("http://cam/", "http://CAM:80/video", True),
        ("http://cam/", "https://cam/video", True),
        ("http://cam:80/", "https://cam:443/video", True),
        ("http://cam/", "https://cam:8443/video", False),
        ("http://cam:8080/", "https://cam/video", False),
        ("http://cam/", "http://cam:81/video", False),
        ("http://cam/", "http://cam.example/video", False),
        ("http://[::1]/", "https://[::1]/video", True),
        ("rtsps://cam/1", "rtsps://cam/1", True),
        ("rtsps://cam/1", "rtsp://cam/1", False),
    ],
)
def test_only_the_configured_server_gets_the_password(
    configured: str, asked: str, challenges: tuple[str, ...], is_sent: bool
) -> None:
    login = Login("admin", "word", configured)
    assert login.is_for(asked) == is_sent
    assert bool(login.header("GET", asked, "/video", challenges)) == is_sent


@pytest.mark.parametrize(
    ("challenge", "expected"),
    [
        ('Digest  realm="c", nonce="1"', 'Digest username="admin"'),
        ('Digest\trealm="c", nonce="1", , ', 'Digest username="admin"'),
        ('Digest realm="c", nonce="1", algorithm=md5', 'algorithm="md5"'),
        ('Digest realm="c", nonce="1", algorithm=sha-256', 'algorithm="sha-256"'),
        ('Digest realm="c", nonce="1", qop="auth-int, auth"', "qop=auth,"),
        ('Basic realm="c", Digest realm="c", nonce="1"', 'Digest username="admin"'),
        ('digest realm="c", nonce="1",basic realm="c, digest camera"', 'Digest username="admin"'),
        ('Digest realm="c", nonce="1", algorithm=SHA-512-256, Basic realm="c"', "Basic "),
        ('Digest realm="c", nonce="1", Negotiate', 'Digest username="admin"'),
        ('Digest realm="c", nonce="1", qop="auth-int"', ""),
    ],
)
def test_challenges_as_cameras_write_them(challenge: str, expected: str) -> None:
    login = Login("admin", "word", "http://cam/")
    header = login.header("GET", "http://cam/", "/", [challenge])
    assert expected in header
    assert bool(header) == bool(expected)
