"""Pages, snapshots, probes and login of a real gateway with real rings."""

from __future__ import annotations

import base64
import json
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jsonschema
import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus

from support.gateway import Answer, Gateway, cameras, subprotocol_for
from support.waiting import slack, wait_for
from tridetr.config import AlarmSection, DetectSection
from tridetr.errors import GatewayError
from tridetr.gateway.message import PROTOCOL
from tridetr.gateway.openapi import description
from tridetr.model_card import ModelInfo
from tridetr.served_model import write_served_model
from tridetr.shm.boards import CameraState, SentryState
from tridetr.telemetry import metrics

TOKEN = "a-long-token-for-tests"


def test_page_and_its_headers(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, _), Gateway(config) as gateway:
        page = gateway.ask("/")
        assert page.status == 200
        assert b"viewer.js" in page.body
        policy = page.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "same-origin"
        assert "server" not in page.headers
        # No inline script or style, and nothing from elsewhere.
        assert b"style=" not in page.body
        assert b"http:" not in page.body.replace(b"http-equiv", b"")
        script = gateway.ask("/static/viewer.js")
        assert script.headers["content-type"].startswith("text/javascript")
        again = gateway.ask("/static/viewer.js", headers={"If-None-Match": script.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        assert gateway.ask("/login").status == 303  # nothing to log in to


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../../../../etc/passwd",
        "/static/..%2f..%2f..%2fetc%2fpasswd",
        "/static/%2fetc%2fpasswd",
        "/static//etc/passwd",
        "/static/../app.py",
        "/static/",
        "/static",
        "/snapshot/../api/cameras",
        "/snapshot/..%2f..%2fetc%2fpasswd.jpg",
        "/snapshot/%00.jpg",
        "/snapshot/nobody.jpg",
        "/snapshot/hall",
        "/ws/hall",
        "/nothing",
        "/..",
        "/%ff%fe",
        "*",
    ],
)
def test_unknown_paths(tmp_path: Path, path: str) -> None:
    with cameras(tmp_path, "hall") as (config, _), Gateway(config) as gateway:
        answer = gateway.ask(path)
        assert 400 <= answer.status < 500, answer
        assert b"root:" not in answer.body
        assert answer.status == 400 or "error" in answer.json()


def test_snapshot_is_the_newest_frame_with_its_boxes(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        camera = fakes["hall"]
        empty = gateway.ask("/snapshot/hall.jpg")
        assert (empty.status, empty.headers["retry-after"]) == (503, "1")
        camera.frame()
        sequence = camera.frame()
        assert sequence is not None
        camera.result(sequence)
        plain, drawn = gateway.ask("/snapshot/hall.jpg"), gateway.ask("/snapshot/hall.jpg?boxes=1")
        for answer in (plain, drawn):
            assert answer.headers["content-type"] == "image/jpeg"
            assert answer.headers["x-frame-number"] == "2"
            assert answer.headers["cache-control"] == "no-store"
        bare, boxed = (simplejpeg.decode_jpeg(a.body).astype(int) for a in (plain, drawn))
        assert bare.shape == (480, 640, 3)
        x1, y1, x2, y2 = camera.truth(2)
        middle = bare[(y1 + y2) // 2, (x1 + x2) // 2]
        assert np.abs(middle - (255, 176, 133)).max() < 25  # FIGURE in RGB
        changed = np.abs(boxed - bare).sum(axis=2) > 120
        assert changed[(y1 + y2) // 2, x1 - 3 : x1 + 4].any()
        assert changed[(y1 + y2) // 2, x2 - 3 : x2 + 4].any()
        assert not changed[(y1 + y2) // 2, x1 + 12 : x2 - 12].any()
        assert gateway.ask("/snapshot/hall.jpg?boxes=2").status == 400
        small = gateway.ask("/snapshot/hall.jpg?small=1")
        assert simplejpeg.decode_jpeg_header(small.body)[:2] == (480, 640)


def test_snapshot_of_an_mjpeg_camera_is_its_own_jpeg(tmp_path: Path) -> None:
    own = simplejpeg.encode_jpeg(np.full((480, 640, 3), 77, np.uint8), colorsubsampling="422")
    with cameras(tmp_path, "hall", jpeg_capacity=200_000) as (config, fakes):
        with Gateway(config) as gateway:
            fakes["hall"].frame(jpeg=own)
            assert gateway.ask("/snapshot/hall.jpg").body == own
            fakes["hall"].frame(jpeg=b"\xff\xd8 this is no JPEG")
            mended = gateway.ask("/snapshot/hall.jpg").body
            assert simplejpeg.decode_jpeg(mended).shape == (480, 640, 3)


def test_readiness_requires_progress(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall", "yard") as (config, fakes), Gateway(config) as gateway:
        nothing = gateway.ask("/readyz")
        assert nothing.status == 503
        assert nothing.json()["cameras"]["hall"]["frame_age_s"] is None
        fakes["hall"].play()
        fresh = wait_for(lambda: (a := gateway.ask("/readyz")).status == 200 and a)
        assert isinstance(fresh, Answer)
        assert 0 <= fresh.json()["cameras"]["hall"]["frame_age_s"] < 1
        assert gateway.ask("/readyz?all=1").status == 503  # yard has never delivered
        fakes["yard"].play()
        wait_for(lambda: gateway.ask("/readyz?all=1").status == 200)
        for fake in fakes.values():
            fake.alive = False
        stale = wait_for(lambda: (a := gateway.ask("/readyz")).status == 503 and a)
        assert isinstance(stale, Answer)
        assert stale.json()["cameras"]["hall"]["frame_age_s"] > 1
        assert gateway.ask("/healthz").status == 200  # the gateway itself is healthy


def test_every_part_that_stops_is_reported(tmp_path: Path) -> None:
    """In the probes, the HTTP API, the stream and the metrics."""
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        camera = fakes["hall"]
        camera.play()

        def until(part: str, **more: object) -> dict[str, Any]:
            wanted = {"part": part, **more}

            def found() -> dict[str, Any] | None:
                hall: dict[str, Any] = gateway.ask("/readyz").json()["cameras"]["hall"]
                return hall if wanted.items() <= hall.items() else None

            hall = wait_for(found, what=str(wanted))
            assert hall is not None
            assert hall["ready"] is (part == "")
            shown = gateway.ask("/api/cameras").json()["cameras"][0]["watching"]
            assert (shown["part"], shown["watching"]) == (part, part == "")
            viewer.until("watching", part=part, watching=part == "")
            return hall

        with gateway.watch("hall") as viewer:
            until("")
            assert metrics.WATCHED.labels("hall")._value.get() == 1
            before = time.time() * 1000
            camera.gives_results = False  # the detector is dead, the picture is live
            detector = until("detector", reason="the detector returns no results")
            assert metrics.WATCHED.labels("hall")._value.get() == 0
            # The fault began at the last frame that was inferred, not when it was noticed.
            assert before - 1000 < detector["since_unix_ms"] < before + 900 * slack(1)
            camera.gives_results = True
            until("")
            camera.decides = False
            until("controller", reason="the controller makes no decisions")
            camera.decides = True
            until("")
            camera.state = SentryState.UNKNOWN
            until("controller", reason="the state is unknown")
            camera.state = SentryState.STANDBY
            camera.camera_state, camera.message = CameraState.OFFLINE, "rtsp://secret.example"
            offline = until("camera", reason="the camera is offline")
            assert "secret" not in json.dumps(offline)  # the probe is open to everyone


@pytest.mark.parametrize(
    ("classes", "published", "part", "warnings"),
    [
        (["cat"], [], "model", 1),
        (["cat", "person"], [], "", 1),
        (["cat", "person"], ["person"], "", 2),
        (["cat"], ["dog"], "model", 2),
        (["dog"], ["person"], "model", 1),
    ],
)
def test_alarm_classes_that_never_come(
    tmp_path: Path, classes: list[str], published: list[str], part: str, warnings: int
) -> None:
    """The model does not have them, or the detector does not publish them."""
    with cameras(tmp_path, "hall") as (config, fakes):
        sections = {
            "alarm": AlarmSection(classes=tuple(classes)),
            "detect": DetectSection(classes=tuple(published)),
        }
        config = config.model_copy(update=sections)
        config.run_dir.mkdir()
        known = {"person": 1, "dog": 18}
        model = ModelInfo("rfdetr_ort", "1", "onnxruntime", "CPU", "fp32", known)
        write_served_model(config.run_dir, model)
        with Gateway(config) as gateway:
            fakes["hall"].play()

            def shown() -> dict[str, object] | None:
                found = gateway.ask("/api/cameras").json()["cameras"][0]["watching"]
                return found if found["part"] == part else None

            found = wait_for(shown)
            assert found is not None
            assert len(found["warnings"]) == warnings  # type: ignore[arg-type]
            assert repr(classes[0]) in str(found["warnings"])


def test_cameras_and_events(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        known = gateway.ask("/api/cameras").json()["cameras"]
        assert [camera["name"] for camera in known] == ["hall"]
        assert known[0]["state"]["state"] == "unknown"
        assert known[0]["status"]["state"] == "offline"
        fakes["hall"].say()
        sequence = fakes["hall"].frame()
        assert sequence is not None
        fakes["hall"].result(sequence)
        camera = gateway.ask("/api/cameras").json()["cameras"][0]
        assert (camera["state"]["state"], camera["status"]["state"]) == ("standby", "live")
        assert (camera["detections"], camera["model"]) == (1, "rfdetr_ort/1")
        assert gateway.ask("/api/events").json() == {"events": []}
        write_history(config.state_dir)
        events = gateway.ask("/api/events?limit=2").json()["events"]
        assert [event["seq"] for event in events] == [3, 2]
        assert events[0]["details"] == {"score": 0.9}
        assert [e["seq"] for e in gateway.ask("/api/events?after=2").json()["events"]] == [3]
        assert gateway.ask("/api/events?camera=hall").json()["events"]
        assert gateway.ask("/api/events?camera=x").status == 404


def write_history(state_dir: Path) -> None:
    state_dir.mkdir(exist_ok=True)
    with closing(sqlite3.connect(state_dir / "controller.db")) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(
            "CREATE TABLE history (seq INTEGER PRIMARY KEY, unix_ns INTEGER, camera TEXT, kind TEXT, details TEXT)"
        )
        for seq in (1, 2, 3):
            database.execute(
                "INSERT INTO history VALUES (?, ?, 'hall', 'person_arrived', ?)",
                (seq, time.time_ns(), json.dumps({"score": 0.9})),
            )
    database.close()


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


def test_guessing_is_limited_and_never_locks_out_the_correct_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
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
        assert many[-1] == 429
        assert log_in(gateway, TOKEN, **{"X-Forwarded-For": "192.0.2.199"}).status == 303


def test_requests_are_limited_but_probes_always_answered(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, _), Gateway(config) as gateway:
        flood = b"GET /api/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 600
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as client:
            client.sendall(flood)
            answers = b""
            while b" 429 " not in answers:
                answers = answers[-20:] + client.recv(65536)
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


def test_snapshots_accept_basic_auth(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with cameras(tmp_path, "hall", gateway={"token_file": tmp_path / "token"}) as (config, fakes):
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


def test_errors_are_html_for_people_and_json_for_programs(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, _), Gateway(config) as gateway:
        browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        page = gateway.ask("/snapshot/<b>.jpg", headers=browser)
        assert page.status == 404
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert b'href="../static/viewer.css"' in page.body
        assert b"no such camera" in page.body.lower()
        assert gateway.ask("/nothing").json()["error"]
        assert gateway.ask("/nothing", headers={"Accept": "*/*"}).json()["error"]


def test_trusted_proxy_may_change_the_host(tmp_path: Path) -> None:
    section = {"trusted_proxies": ["127.0.0.0/8"], "allowed_origins": ["https://x.example.org"]}
    with cameras(tmp_path, "hall", gateway=section) as (config, _), Gateway(config) as gateway:
        forwarded = {"X-Forwarded-Host": "cams.lan", "X-Forwarded-Proto": "https"}
        origin = "https://cams.lan"
        with gateway.watch("hall", origin=origin, additional_headers=forwarded) as viewer:
            viewer.until("hello")
        evil = {"X-Forwarded-Host": "evil.example"}
        assert gateway.ask("/api/cameras", headers=evil).status == 421


def test_foreign_host_names_are_refused_without_a_token(tmp_path: Path) -> None:
    """DNS rebinding: the name of a hostile page resolves to this machine."""
    allowed = {"allowed_origins": ["https://cams.example.org"]}
    with cameras(tmp_path, "hall", gateway=allowed) as (config, _), Gateway(config) as gateway:
        assert gateway.ask("/api/cameras", headers={"Host": "evil.example"}).status == 421
        assert gateway.ask("/", headers={"Host": "evil.example"}).status == 421
        assert gateway.ask("/api/cameras", headers={"Host": "cams.example.org"}).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/", b"", 405),
        ("DELETE", "/api/cameras", None, 405),
        ("PUT", "/static/viewer.js", b"x", 405),
        ("TRACE", "/", None, 405),
        ("POST", "/login", b"token=" + b"x" * 100_000, 413),
        ("POST", "/logout", b"", 303),
    ],
)
def test_methods_and_bodies(
    tmp_path: Path, method: str, path: str, body: bytes | None, status: int
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with cameras(tmp_path, "hall", gateway={"token_file": tmp_path / "token"}) as (config, _):
        with Gateway(config) as gateway:
            headers = {
                "Authorization": f"Bearer {TOKEN}",
                "Content-Type": "application/x-www-form-urlencoded",
            }
            assert gateway.ask(path, method, headers, body).status == status


def test_port_in_use_is_reported_with_the_remedy(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, _), Gateway(config) as gateway:
        taken = config.model_copy(
            update={
                "gateway": config.gateway.model_copy(update={"port": gateway.port}),
                "run_dir": tmp_path / "other",
            }
        )
        with pytest.raises(GatewayError, match=r"gateway\.port"):
            Gateway(taken).start()


DOCUMENT = description()
OPERATIONS = [
    (path, operations["get"])
    for path, operations in DOCUMENT["paths"].items()
    if "get" in operations
]
values = st.one_of(
    st.text(max_size=20),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["0", "1", "hall", "100"]),
)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_responses_match_the_openapi_description(
    data: st.DataObject, open_gateway: Gateway
) -> None:
    """For any parameters, the status and the shape of the body are documented."""
    path, operation = data.draw(st.sampled_from(OPERATIONS))
    query = {}
    for parameter in operation["parameters"]:
        if parameter["in"] == "path":
            camera = data.draw(st.sampled_from(["hall", "nobody", "a%20b", "%00", "..%2f"]))
            path = path.replace("{camera}", camera)
        elif data.draw(st.booleans()):
            query[parameter["name"]] = data.draw(values)
    text = urlencode(query, errors="surrogatepass")
    answer = open_gateway.ask(f"{path}?{text}")
    if answer.status == 429:
        time.sleep(0.1)
        return
    described = operation["responses"].get(str(answer.status))
    if described is None:
        assert answer.status == 404, (path, answer)  # a name without a route
        return
    if "$ref" in described:
        described = DOCUMENT["components"]["responses"][described["$ref"].rsplit("/", 1)[1]]
    (content_type, content), *_ = described["content"].items()
    assert answer.headers["content-type"].startswith(content_type)
    if content_type == "application/json":
        schema = content["schema"] | {"components": DOCUMENT["components"]}
        if "$ref" in schema:
            schema = schema | {"$ref": "#/components/schemas/Error"}
        jsonschema.validate(answer.json(), schema)


@pytest.fixture(scope="module")
def open_gateway(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("gateway")
    with cameras(folder, "hall") as (config, fakes), Gateway(config) as gateway:
        write_history(config.state_dir)
        sequence = fakes["hall"].frame()
        assert sequence is not None
        fakes["hall"].result(sequence)
        yield gateway


def test_openapi_describes_every_route(open_gateway: Gateway) -> None:
    assert open_gateway.ask("/api/openapi.json").json() == json.loads(json.dumps(DOCUMENT))
    for path, operation in OPERATIONS:
        answer = open_gateway.ask(path.replace("{camera}", "hall"))
        assert str(answer.status) in operation["responses"], path
        assert (answer.status == 404) is ("{visit_id}" in path), path
