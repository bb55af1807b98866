"""Token, session, origin and host name: who is let in."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tridetr.gateway.auth import RENEW_AFTER_S, SESSION_S, TokenAuth, subprotocol_for
from tridetr.gateway.origins import host_and_port, is_host_trusted, is_origin_allowed
from tridetr.gateway.session_key import FILE, session_salt

TOKEN = "correct-horse-battery-staple"
AUTH = TokenAuth(TOKEN)


def test_the_token_alone_forges_no_session(tmp_path: Path) -> None:
    """Tokens could be tried by signing cookies with them, past the limit for wrong tokens."""
    salt = session_salt(tmp_path / "state")
    assert (tmp_path / "state" / FILE).stat().st_mode & 0o777 == 0o600
    ours = TokenAuth(TOKEN, salt)
    assert ours.session_expires(TokenAuth(TOKEN).new_session(1000), 1000) is None
    again = TokenAuth(TOKEN, session_salt(tmp_path / "state"))
    assert again.session_expires(ours.new_session(1000), 1000)
    other = TokenAuth(TOKEN, session_salt(tmp_path / "another"))
    assert other.session_expires(ours.new_session(1000), 1000) is None


def test_sessions_work_where_the_salt_cannot_be_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    salt = session_salt(tmp_path / "file" / "state")
    assert len(salt) == 32
    assert "log in again" in caplog.text


@pytest.mark.parametrize(
    ("header", "right"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer   {TOKEN} ", True),
        (f"Basic {TOKEN}", False),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        ("Bearer ", False),
        ("Bearer", False),
        ("", False),
        (TOKEN, False),
    ],
)
def test_bearer(header: str, right: bool) -> None:
    assert AUTH.is_bearer(header) is right


def test_subprotocol() -> None:
    assert AUTH.is_subprotocol(["tridetr.v1", subprotocol_for(TOKEN)])
    padded = "tridetr.bearer." + base64.urlsafe_b64encode(TOKEN.encode()).decode()
    assert AUTH.is_subprotocol([padded])
    for wrong in ([], ["tridetr.v1"], [subprotocol_for("x")], ["tridetr.bearer.***"], [TOKEN]):
        assert not AUTH.is_subprotocol(wrong)


def test_without_a_token_nothing_is_required_and_nothing_is_right() -> None:
    auth = TokenAuth(None)
    assert not auth.required
    assert not auth.is_token("")
    assert not auth.is_bearer("Bearer ")
    assert auth.session_expires(auth.new_session(0), 0) is None


def test_session_holds_until_it_ends_and_over_a_restart() -> None:
    cookie = AUTH.new_session(1000)
    assert TokenAuth(TOKEN).session_expires(cookie, 1000) == 1000 + SESSION_S
    assert AUTH.session_expires(cookie, 1000 + SESSION_S) is None
    assert not AUTH.is_session_due(1000 + SESSION_S, 1000 + RENEW_AFTER_S)
    assert AUTH.is_session_due(1000 + SESSION_S, 1001 + RENEW_AFTER_S)


def test_session_ends_with_the_token_and_cannot_be_lengthened() -> None:
    cookie = AUTH.new_session(1000)
    assert TokenAuth("another").session_expires(cookie, 1000) is None
    expires, signature = cookie.split(".")
    assert AUTH.session_expires(f"{int(expires) + 1}.{signature}", 1000) is None
    assert AUTH.session_expires(f"{expires}.{signature[:-1]}", 1000) is None
    assert AUTH.session_expires(f"{expires}.", 1000) is None
    assert TOKEN not in cookie


@given(st.text(max_size=200))
def test_noise_is_no_session_and_no_token(noise: str) -> None:
    assert AUTH.session_expires(noise, 0) is None
    assert not AUTH.is_token(noise)
    assert not AUTH.is_subprotocol([noise, "tridetr.bearer." + noise])


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://localhost:8080", "localhost:8080", True),
        ("https://cam.example.org", "cam.example.org", True),  # TLS ends in front of the gateway
        ("https://cam.example.org:443", "cam.example.org", True),
        ("http://cam.example.org", "cam.example.org:80", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("https://dash.example.org", "localhost:8080", True),  # configured
        ("http://localhost:8081", "localhost:8080", False),
        ("http://evil.example", "localhost:8080", False),
        ("http://localhost.evil.example:8080", "localhost:8080", False),
        ("http://evil.example@localhost:8080", "localhost:8080", False),
        ("null", "localhost:8080", False),
        ("file://", "localhost:8080", False),
        ("chrome-extension://localhost:8080", "localhost:8080", False),
        ("", "", False),
        ("http://", "", False),
        ("http://[::1", "[::1", False),
        ("http://a:99999", "a:99999", False),
    ],
)
def test_origin(origin: str, host: str, allowed: bool) -> None:
    assert is_origin_allowed(origin, host, ["https://dash.example.org/"]) is allowed


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("localhost:8080", True),
        ("127.0.0.1", True),
        ("192.168.1.20:8080", True),
        ("[fe80::1]:8080", True),
        ("tridetr", True),
        ("tridetr.default.svc:8080", True),
        ("tridetr.default.svc.cluster.local", True),
        ("door.local", True),
        ("cam.example.org", True),  # configured as an origin
        ("evil.example", False),
        ("127.0.0.1.nip.io", False),
        ("tridetr.svc.evil.example", False),
        ("evil.example:8080", False),
        ("evil.example.", False),
        ("user@localhost", False),
        ("", False),
        ("a/b", False),
    ],
)
def test_host(host: str, trusted: bool) -> None:
    assert is_host_trusted(host, ["https://cam.example.org"]) is trusted


@given(st.text(max_size=60), st.text(max_size=60))
def test_hosts_and_origins_from_noise_raise_nothing(origin: str, host: str) -> None:
    host_and_port(host)
    is_host_trusted(host, [])
    assert not is_origin_allowed(origin, "localhost:1", [])
    is_origin_allowed("http://" + origin, host, [])
