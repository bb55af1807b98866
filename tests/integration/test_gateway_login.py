"""Access to a real gateway: token, login, sessions, rate limits, hosts and origins."""

from __future__ import annotations

import base64
import http.client
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import pytest
from prometheus_client import REGISTRY
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.gateway import Answer, Gateway, cameras, subprotocol_for
from support.small_disks import mounted_ext4
from support.waiting import wait_for
from tridetr.gateway.login_sessions import KEY_FILE
from tridetr.gateway.message import PROTOCOL

TOKEN = "a-long-token-for-tests"


def test_token_guards_everything_but_probes_and_login(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    with cameras(tmp_path, "hall", gateway={"token_file": tmp_path / "token"}) as (config, fakes):
        with Gateway(config) as gateway:
            fakes["hall"].frame()
            for path in (
                "/api/cameras",
                "/api/events",
                "/snapshot/hall.jpg",
                "/metrics",
                "/api/openapi.json",
            ):
                answer = gateway.ask(path)
                assert answer.status == 401, path
                assert answer.headers["www-authenticate"].startswith("Bearer")
                right = gateway.ask(path, headers={"Authorization": f"Bearer {TOKEN}"})
                assert right.status in (200, 503), path
            assert gateway.ask("/api/none").status == 401  # not even which paths exist is revealed
            assert gateway.ask("/").headers["location"] == "login"
            assert gateway.ask("/healthz").status == 200
            assert gateway.ask("/readyz").status in (200, 503)
            for path in ("/login", "/static/viewer.css"):
                assert gateway.ask(path).status == 200
            for options in (
                {"additional_headers": {"Authorization": f"Bearer {TOKEN}"}},
                {"subprotocols": [PROTOCOL, subprotocol_for(TOKEN)]},
            ):
                with gateway.watch("hall", **options) as viewer:
                    viewer.until("frame")
                    assert viewer.socket.subprotocol == PROTOCOL
            for options in ({}, {"subprotocols": [PROTOCOL, subprotocol_for("wrong")]}):
                with pytest.raises(InvalidStatus) as refused:
                    gateway.watch("hall", **options)
                assert refused.value.response.status_code == 401


def log_in(gateway: Gateway, token: str, **headers: str) -> Answer:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    return gateway.ask("/login", "POST", kind | headers, urlencode({"token": token}).encode())


def test_session_survives_a_restart(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with cameras(tmp_path, "hall", gateway={"token_file": tmp_path / "token"}) as (config, _):
        with Gateway(config) as gateway:
            answer = log_in(gateway, TOKEN)
            assert (answer.status, answer.headers["location"]) == (303, ".")
            cookie = answer.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
            assert "Secure" not in cookie
            assert TOKEN not in cookie
            assert (
                "Secure"
                in log_in(gateway, TOKEN, **{"X-Forwarded-Proto": "https"}).headers["set-cookie"]
            )
            session = {"Cookie": cookie.split(";")[0]}
            assert gateway.ask("/api/cameras", headers=session).status == 200
            assert log_in(gateway, TOKEN, Origin="http://evil.example").status == 403
        with Gateway(config) as gateway:
            assert gateway.ask("/api/cameras", headers=session).status == 200
            assert gateway.ask("/", headers=session).status == 200
            with gateway.watch("hall", additional_headers=session) as viewer:
                viewer.until("hello")
            for origin, status in (("http://evil.example", 403), ("null", 403)):
                with pytest.raises(InvalidStatus) as refused:
                    gateway.watch("hall", additional_headers=session, origin=origin)
                assert refused.value.response.status_code == status
            with gateway.watch("hall", additional_headers=session, origin=gateway.url) as viewer:
                viewer.until("hello")


def test_logout_ends_the_streams_of_its_session(tmp_path: Path) -> None:
    """They showed the camera for as long as the page was open, also in the browser's other tabs."""
    (tmp_path / "token").write_text(TOKEN)
    with cameras(tmp_path, "hall", gateway={"token_file": tmp_path / "token"}) as (config, fakes):
        with Gateway(config) as gateway:
            fakes["hall"].play()
            mine, other = (
                {"Cookie": log_in(gateway, TOKEN).headers["set-cookie"].split(";")[0]}
                for _ in range(2)
            )
            with (
                gateway.watch("hall", additional_headers=mine) as viewer,
                gateway.watch("hall", additional_headers=other) as another,
                closing(
                    http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
                ) as player,
            ):
                viewer.until("frame")
                player.request("GET", "/stream/hall.mjpeg", headers=mine)
                pictures = player.getresponse()
                assert pictures.read(1000)
                assert gateway.ask("/logout", "POST", mine).status == 303
                with pytest.raises(ConnectionClosed) as ended:
                    viewer.to_the_end()
                assert ended.value.rcvd is not None
                assert ended.value.rcvd.reason == "the session was logged out"
                while pictures.read1(65_536):
                    pass
                another.seen.clear()
                another.until("frame")


def wrong_tokens() -> float:
    return REGISTRY.get_sample_value("tridetr_gateway_wrong_tokens_total") or 0


def test_guessing_is_limited_and_never_locks_out_the_correct_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    before = wrong_tokens()
    with cameras(tmp_path, "hall", gateway={"token_file": tmp_path / "token"}) as (config, _):
        with Gateway(config) as gateway:
            session = {"Cookie": log_in(gateway, TOKEN).headers["set-cookie"].split(";")[0]}
            statuses = [log_in(gateway, f"guess {n}").status for n in range(15)]
            assert statuses[:10] == [401] * 10
            assert statuses[12:] == [429] * 3
            wrong = {"Authorization": "Bearer wrong"}
            assert gateway.ask("/api/cameras", headers=wrong).status == 429
            page = log_in(gateway, "guess", Accept="text/html")
            assert b"Too many wrong tokens" in page.body
            assert wrong_tokens() == before + 17
            assert "wrong gateway token from 127.0.0.1" in caplog.text
            # From the same address, as behind a proxy for all clients:
            assert log_in(gateway, TOKEN).status == 303
            right = {"Authorization": f"Bearer {TOKEN}"}
            assert gateway.ask("/api/cameras", headers=right).status == 200
            assert gateway.ask("/api/cameras", headers=session).status == 200
            with gateway.watch("hall", additional_headers=right) as viewer:
                viewer.until("hello")
            assert gateway.ask("/healthz").status == 200


def test_guesses_from_many_addresses_share_a_limit(tmp_path: Path) -> None:
    """Otherwise each address of an IPv6 /64 and of a botnet would have its own ten guesses."""
    (tmp_path / "token").write_text(TOKEN)
    section = {"token_file": tmp_path / "token", "trusted_proxies": ["127.0.0.1"]}
    with cameras(tmp_path, "hall", gateway=section) as (config, _), Gateway(config) as gateway:

        def guess(address: str) -> int:
            return log_in(gateway, "wrong", **{"X-Forwarded-For": address}).status

        one_site = [guess(f"2001:db8:0:1::{n:x}") for n in range(15)]
        assert one_site.count(401) == 10
        assert one_site[12:] == [429] * 3
        many = [guess(f"192.0.2.{n}") for n in range(1, 200)]
        assert 90 <= many.count(401) < 110
        assert 429 in many[-10:]  # a slow machine has some more guesses
        assert log_in(gateway, TOKEN, **{"X-Forwarded-For": "192.0.2.199"}).status == 303


def test_requests_are_limited_but_probes_always_answered(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, _), Gateway(config) as gateway:
        # Many, of the cheapest kind, because a slow machine answers few per second
        flood = b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as client:
            client.sendall(flood)
            answers = b""
            while b" 429 " not in answers:
                more = client.recv(65536)
                assert more, "the connection has ended"
                answers = answers[-20:] + more
        assert [gateway.ask(path).status for path in ("/healthz", "/readyz")] == [200, 503]


def test_logout_ends_the_session(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with cameras(tmp_path, "hall", gateway={"token_file": tmp_path / "token"}) as (config, _):
        with Gateway(config) as gateway:
            stolen = {"Cookie": log_in(gateway, TOKEN).headers["set-cookie"].split(";")[0]}
            assert gateway.ask("/api/cameras", headers=stolen).status == 200
            out = gateway.ask("/logout", "POST", stolen)
            assert (out.status, out.headers["location"]) == (303, "login")
            assert gateway.ask("/api/cameras", headers=stolen).status == 401
        with Gateway(config) as gateway:
            assert gateway.ask("/api/cameras", headers=stolen).status == 401


def test_a_disk_that_stalls_stops_neither_the_gateway_nor_its_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One logout, or a start, stopped the whole gateway, also for probes, for as long as the disk did not answer."""
    (tmp_path / "token").write_text(TOKEN)
    with (
        mounted_ext4(tmp_path) as disk,
        cameras(tmp_path, "hall", gateway={"token_file": tmp_path / "token"}) as (made, _),
    ):
        config = made.model_copy(update={"state_dir": disk.folder / "state"})
        with Gateway(config) as gateway:
            session = {"Cookie": log_in(gateway, TOKEN).headers["set-cookie"].split(";")[0]}
            disk.freeze()
            with ThreadPoolExecutor(1) as pool:
                leaving = pool.submit(gateway.ask, "/logout", "POST", session)
                wait_for(lambda: gateway.ask("/api/cameras", headers=session).status == 401)
                assert not leaving.done()
                assert gateway.ask("/healthz").status == 200
                assert leaving.result(30).status == 303
            assert "the disk does not answer: a session that was logged out" in caplog.text
        disk.thaw()
        (config.state_dir / KEY_FILE).unlink()  # its replacement has to be written
        disk.freeze()
        with Gateway(config) as gateway:
            assert "the disk does not answer. All sessions have ended" in caplog.text
            assert gateway.ask("/healthz").status == 200
            assert gateway.ask("/api/cameras", headers=session).status == 401
            newer = {"Cookie": log_in(gateway, TOKEN).headers["set-cookie"].split(";")[0]}
            assert gateway.ask("/api/cameras", headers=newer).status == 200
            disk.thaw()


def test_snapshots_accept_basic_auth(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    section = {"token_file": tmp_path / "token"}
    with cameras(tmp_path, "hall", gateway=section, live_s=60) as (config, fakes):
        with Gateway(config) as gateway:
            fakes["hall"].frame()
            pair = base64.b64encode(f"viewer:{TOKEN}".encode()).decode()
            basic = {"Authorization": f"Basic {pair}"}
            assert gateway.ask("/snapshot/hall.jpg", headers=basic).status == 200
            refused = gateway.ask("/snapshot/hall.jpg")
            assert 'Basic realm="tridetr"' in refused.headers["www-authenticate"]
            # Browsers send it automatically once they have it, so no other route accepts it.
            assert gateway.ask("/api/cameras", headers=basic).status == 401


def test_refusals_contain_the_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    section = {"max_viewers": 1}
    with cameras(tmp_path, "hall", gateway=section) as (config, _), Gateway(config) as gateway:
        changed = {"Host": "127.0.0.1:8080", "Origin": "https://cams.example.org"}
        with pytest.raises(InvalidStatus):
            gateway.watch("hall", origin="https://cams.example.org")
        wait_for(lambda: "proxy_set_header Host" in caplog.text)
        assert "cams.example.org" in caplog.text
        why = gateway.ask("/ws/hall", "POST", changed)
        assert (why.status, "Host header" in why.json()["error"]) == (403, True)
        assert gateway.ask("/ws/hall", "POST").status == 204
        plain = gateway.ask("/ws/hall")
        assert (plain.status, plain.headers["upgrade"]) == (426, "websocket")
        with gateway.watch("hall") as viewer:
            viewer.until("hello")
            full = gateway.ask("/ws/hall", "POST")
            assert (full.status, "max_viewers" in full.json()["error"]) == (503, True)


def test_trusted_proxy_may_change_the_host(tmp_path: Path) -> None:
    section = {"trusted_proxies": ["127.0.0.0/8"], "allowed_origins": ["https://x.example.org"]}
    with cameras(tmp_path, "hall", gateway=section) as (config, _), Gateway(config) as gateway:
        forwarded = {"X-Forwarded-Host": "cams.lan", "X-Forwarded-Proto": "https"}
        origin = "https://cams.lan"
        with gateway.watch("hall", origin=origin, additional_headers=forwarded) as viewer:
            viewer.until("hello")
        evil = {"X-Forwarded-Host": "evil.example"}
        assert gateway.ask("/api/cameras", headers=evil).status == 421
        spoofed = {"Host": "evil.example", "X-Forwarded-Host": "localhost"}  # a page can set it
        assert gateway.ask("/snapshot/hall.jpg", headers=spoofed).status == 421


def test_the_cookie_of_a_framed_viewer_is_sent_to_it_over_https_only(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    section = {
        "token_file": tmp_path / "token",
        "trusted_proxies": ["127.0.0.1"],
        "frame_ancestors": ["http://ha.local:8123"],
    }
    with cameras(tmp_path, "hall", gateway=section) as (config, _), Gateway(config) as gateway:
        cookie = log_in(gateway, TOKEN, **{"X-Forwarded-Proto": "https"}).headers["set-cookie"]
        assert "SameSite=None" in cookie
        assert "Secure" in cookie
        assert "SameSite=Strict" in log_in(gateway, TOKEN).headers["set-cookie"]


def test_foreign_host_names_are_refused_without_a_token(tmp_path: Path) -> None:
    """DNS rebinding: the name of a hostile page resolves to this machine."""
    allowed = {"allowed_origins": ["https://cams.example.org"]}
    with cameras(tmp_path, "hall", gateway=allowed) as (config, _), Gateway(config) as gateway:
        assert gateway.ask("/api/cameras", headers={"Host": "evil.example"}).status == 421
        assert gateway.ask("/", headers={"Host": "evil.example"}).status == 421
        assert gateway.ask("/api/cameras", headers={"Host": "cams.example.org"}).status == 200
