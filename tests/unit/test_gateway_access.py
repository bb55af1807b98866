"""Access control by token, session, origin and host name."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quart import Request
from werkzeug.datastructures import Headers

from support.gateway import subprotocol_for
from tridetr.config import Config
from tridetr.config.node_sections import GatewaySection
from tridetr.config.secrets import gateway_token
from tridetr.errors import ConfigError
from tridetr.gateway import login_sessions
from tridetr.gateway.auth import TokenAuth
from tridetr.gateway.clients import Proxies, parse_address, site_of
from tridetr.gateway.gateway_process import warn_of_open_access
from tridetr.gateway.login_sessions import (
    ENDED_FILE,
    KEY_FILE,
    RENEW_AFTER_S,
    SESSION_S,
    LoginSessions,
)
from tridetr.gateway.origins import host_and_port, is_host_trusted, is_origin_allowed
from tridetr.gateway.security import headers_for

TOKEN = "correct-horse-battery-staple"
AUTH = TokenAuth(TOKEN)


@pytest.fixture
def sessions(tmp_path: Path) -> LoginSessions:
    return LoginSessions(TOKEN, tmp_path / "state")


def test_token_alone_cannot_forge_a_session(tmp_path: Path, sessions: LoginSessions) -> None:
    """Otherwise tokens could be guessed by signing cookies with them, bypassing the rate limit."""
    assert (tmp_path / "state" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    cookie = sessions.issue(1000)
    assert sessions.check(LoginSessions(TOKEN, tmp_path / "another").issue(1000), 1000) is None
    again = LoginSessions(TOKEN, tmp_path / "state")
    assert again.check(cookie, 1000)
    assert LoginSessions(TOKEN, tmp_path / "third").check(cookie, 1000) is None


def test_a_disk_that_answers_late_does_not_bring_logged_out_sessions_back(
    tmp_path: Path, sessions: LoginSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next logout was saved alone: after another start, the earlier cookies were valid again."""
    monkeypatch.setattr(login_sessions, "PATIENCE_S", 0.1)
    cookie = sessions.issue(1000)
    session = sessions.check(cookie, 1000)
    assert session
    sessions.end(session, 1000).result(10)
    answers, read = threading.Event(), login_sessions._read_ended

    def late(path: Path) -> dict[str, int]:
        answers.wait(30)
        return read(path)

    monkeypatch.setattr(login_sessions, "_read_ended", late)
    second = LoginSessions(TOKEN, tmp_path / "state")
    newer = second.check(second.issue(1000), 1000)
    assert newer
    saved = second.end(newer, 1000)
    answers.set()
    saved.result(10)
    assert LoginSessions(TOKEN, tmp_path / "state").check(cookie, 1000) is None


def test_sessions_work_without_a_writable_state_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    sessions = LoginSessions(TOKEN, tmp_path / "file" / "state")
    assert "sessions end at the next restart" in caplog.text
    session = sessions.check(sessions.issue(1000), 1000)
    assert session
    sessions.end(session, 1000).result(10)
    assert "valid again after a restart" in caplog.text
    assert sessions.check(sessions.issue(1000, session), 1000) is None


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
def test_only_the_token_passes_as_bearer(header: str, right: bool) -> None:
    assert AUTH.is_bearer(header) is right


def test_only_the_token_passes_as_subprotocol() -> None:
    assert AUTH.is_subprotocol(["tridetr.v1", subprotocol_for(TOKEN)])
    padded = "tridetr.bearer." + base64.urlsafe_b64encode(TOKEN.encode()).decode()
    assert AUTH.is_subprotocol([padded])
    for wrong in ([], ["tridetr.v1"], [subprotocol_for("x")], ["tridetr.bearer.***"], [TOKEN]):
        assert not AUTH.is_subprotocol(wrong)


def test_only_the_token_passes_as_basic_password() -> None:
    def basic(pair: str) -> str:
        return "Basic " + base64.b64encode(pair.encode()).decode()

    assert AUTH.is_basic(basic(f"anyone:{TOKEN}"))
    assert AUTH.is_basic(basic(f":{TOKEN}"))
    for wrong in (basic(TOKEN), basic(f"{TOKEN}:"), basic("a:b"), f"Bearer {TOKEN}", "Basic *", ""):
        assert not AUTH.is_basic(wrong)


def test_without_a_token_nothing_is_required_and_no_token_is_valid() -> None:
    auth = TokenAuth(None)
    assert not auth.required
    assert not auth.is_token("")
    assert not auth.is_bearer("Bearer ")
    assert not auth.is_basic("Basic Og==")


def test_session_is_valid_until_it_expires_and_after_a_restart(
    tmp_path: Path, sessions: LoginSessions
) -> None:
    cookie = sessions.issue(1000)
    again = LoginSessions(TOKEN, tmp_path / "state").check(cookie, 1000)
    assert again
    assert again.expires == 1000 + SESSION_S
    assert sessions.check(cookie, 1000 + SESSION_S) is None
    assert not again.is_due(1000 + RENEW_AFTER_S)
    assert again.is_due(1001 + RENEW_AFTER_S)


def test_session_ends_with_the_token_and_cannot_be_extended(
    tmp_path: Path, sessions: LoginSessions
) -> None:
    cookie = sessions.issue(1000)
    assert LoginSessions("another", tmp_path / "state").check(cookie, 1000) is None
    payload, signature = cookie.rsplit(".", 1)
    name, expires = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    longer = base64.urlsafe_b64encode(json.dumps([name, expires + 1]).encode()).decode().rstrip("=")
    assert sessions.check(f"{longer}.{signature}", 1000) is None
    assert sessions.check(f"{payload}.{signature[:-1]}", 1000) is None
    assert sessions.check(f"{payload}.", 1000) is None
    assert TOKEN not in cookie


def test_logout_ends_every_copy_of_the_session_permanently(
    tmp_path: Path, sessions: LoginSessions
) -> None:
    cookie, other = sessions.issue(1000), sessions.issue(1000)
    session = sessions.check(cookie, 1000)
    assert session
    renewed = sessions.issue(100_000, session)
    sessions.end(session, 100_000).result(10)
    for each in (sessions, LoginSessions(TOKEN, tmp_path / "state")):
        assert each.check(cookie, 100_000) is None
        assert each.check(renewed, 100_000) is None
        assert each.check(other, 100_000)
    assert (tmp_path / "state" / ENDED_FILE).stat().st_mode & 0o777 == 0o600


def test_logout_while_the_clock_is_behind_is_permanent(
    tmp_path: Path, sessions: LoginSessions
) -> None:
    """The next logout with the right time dropped it, so a copied cookie was valid again."""
    now, behind = 100 * 86_400, 60 * 86_400
    cookie, other = sessions.issue(now), sessions.issue(now)
    session, another = sessions.check(cookie, behind), sessions.check(other, now)
    assert session
    assert another
    sessions.end(session, behind).result(10)
    sessions.end(another, now + 60).result(10)
    for each in (sessions, LoginSessions(TOKEN, tmp_path / "state")):
        assert each.check(cookie, now + 60) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": "b"}', b"\xff"])
def test_damaged_list_of_logouts_is_logged(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ENDED_FILE).write_bytes(content)
    sessions = LoginSessions(TOKEN, tmp_path)
    assert "Change the token" in caplog.text
    assert sessions.check(sessions.issue(1000), 1000)


NOISY = LoginSessions(TOKEN, Path("/dev/null"))


@given(st.text(max_size=200))
def test_noise_is_neither_session_nor_token(noise: str) -> None:
    assert NOISY.check(noise, 0) is None
    assert not AUTH.is_token(noise)
    assert not AUTH.is_basic(f"Basic {noise}")
    assert not AUTH.is_subprotocol([noise, "tridetr.bearer." + noise])


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://localhost:8080", "localhost:8080", True),
        ("https://cam.example.org", "cam.example.org", True),  # TLS is terminated by a proxy
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
def test_only_own_and_allowed_origins_pass(origin: str, host: str, allowed: bool) -> None:
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
def test_only_local_and_allowed_hosts_are_trusted(host: str, trusted: bool) -> None:
    assert is_host_trusted(host, ["https://cam.example.org"]) is trusted


@given(st.text(max_size=60), st.text(max_size=60))
def test_hosts_and_origins_from_noise_raise_nothing(origin: str, host: str) -> None:
    host_and_port(host)
    is_host_trusted(host, [])
    assert not is_origin_allowed(origin, "localhost:1", [])
    is_origin_allowed("http://" + origin, host, [])


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:4711", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:443", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ('"[2001:db8::1]"', "2001:db8::/64"),
        ("unknown", "local"),
        ("", "local"),
        ("1.2.3", "local"),
    ],
)
def test_addresses_of_one_site_count_as_one(text: str, site: str) -> None:
    """One customer gets a /64: its 2^64 addresses count as one."""
    assert site_of(parse_address(text)) == site


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["1.1.1.1, 192.0.2.7"], "192.0.2.7"),  # the first one was forged by the client
        ("10.0.0.1", ["1.1.1.1, 192.0.2.7", "10.0.0.2"], "192.0.2.7"),
        ("10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
        ("10.0.0.1", ["nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.7, unknown"], "10.0.0.1"),
        ("192.0.2.9", ["1.1.1.1"], "192.0.2.9"),  # not a trusted proxy
        ("::1", ["2001:db8::1"], "2001:db8::1"),
    ],
)
def test_address_behind_proxies(peer: str, forwarded: list[str], client: str) -> None:
    section = GatewaySection(trusted_proxies=["10.0.0.0/24", "::1"])
    request = asked(peer, *(("X-Forwarded-For", text) for text in forwarded))
    assert str(Proxies(section.trusted_proxies).address(request)) == client


def test_host_behind_proxies() -> None:
    proxies = Proxies(GatewaySection(trusted_proxies=["10.0.0.0/24"]).trusted_proxies)
    headers = (("Host", "127.0.0.1:8080"), ("X-Forwarded-Host", "cams.example.org"))
    assert proxies.host(asked("10.0.0.1", *headers)) == "cams.example.org"
    assert proxies.host(asked("192.0.2.9", *headers)) == "127.0.0.1:8080"
    assert proxies.host(asked("10.0.0.1", headers[0])) == "127.0.0.1:8080"


def asked(peer: str, *headers: tuple[str, str]) -> Request:
    fields = Headers([("Remote-Addr", peer), *headers])  # as Quart's ASGI side fills it in
    return Request("GET", "http", "/", b"", fields, "", "1.1", {}, send_push_promise=_push)


async def _push(path: str, headers: Headers) -> None: ...


def test_short_and_empty_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(cameras={"hall": {"source": "synthetic"}})
    monkeypatch.setenv("TRIDETR_GATEWAY_TOKEN", "")
    assert gateway_token(config) is None
    monkeypatch.setenv("TRIDETR_GATEWAY_TOKEN", "fifteen letters")
    with pytest.raises(ConfigError, match="15 characters") as short:
        gateway_token(config)
    assert "openssl" in str(short.value)
    assert "fifteen" not in str(short.value)
    monkeypatch.setenv("TRIDETR_GATEWAY_TOKEN", TOKEN)
    assert gateway_token(config) == TOKEN


@pytest.mark.parametrize(
    ("host", "variable", "warnings"),
    [
        ("127.0.0.1", None, []),
        ("localhost", None, []),
        ("::1", None, []),
        ("0.0.0.0", None, ["without a token"]),
        ("::", None, ["without a token"]),
        ("192.0.2.1", None, ["without a token"]),
        ("127.0.0.1", "", ["is set but empty"]),
        ("0.0.0.0", TOKEN, []),
    ],
)
def test_cameras_that_anyone_can_see_are_logged(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    host: str,
    variable: str | None,
    warnings: list[str],
) -> None:
    monkeypatch.delenv("TRIDETR_GATEWAY_TOKEN", raising=False)
    if variable is not None:
        monkeypatch.setenv("TRIDETR_GATEWAY_TOKEN", variable)
    warn_of_open_access(Config(cameras={"hall": {"source": "synthetic"}}, gateway={"host": host}))
    assert len(caplog.messages) == len(warnings)
    assert all(part in line for part, line in zip(warnings, caplog.messages, strict=True))


def test_frame_ancestors() -> None:
    names = GatewaySection(frame_ancestors=["self", "http://ha.local:8123"]).frame_ancestors
    headers = headers_for(names)
    assert "frame-ancestors 'self' http://ha.local:8123;" in headers["Content-Security-Policy"]
    assert "X-Frame-Options" not in headers
    assert headers_for(())["X-Frame-Options"] == "DENY"
    for wrong in ("*", "ha.local", "http://a; script-src *", "http://a/b", "'self'", ""):
        with pytest.raises(ValueError, match="frame_ancestors"):
            GatewaySection(frame_ancestors=[wrong])
