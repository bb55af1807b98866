"""Pages, snapshots, probes and the HTTP API of a real gateway with real rings."""

from __future__ import annotations

import http.client
import json
import re
import sqlite3
import time
from collections.abc import Iterator
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

from support.gateway import Answer, Gateway, cameras
from support.waiting import slack, wait_for
from tridetr.config import AlarmSection, DetectSection
from tridetr.errors import GatewayError
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
    with cameras(tmp_path, "hall", live_s=60) as (config, fakes), Gateway(config) as gateway:
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


def test_snapshot_has_no_boxes_of_a_much_older_picture(tmp_path: Path) -> None:
    """After the detector had stopped, its last boxes were drawn on new pictures, as if people were still there."""
    with cameras(tmp_path, "hall", live_s=60) as (config, fakes), Gateway(config) as gateway:
        camera = fakes["hall"]
        for before_s, is_drawn in ((0.5, True), (2.0, False)):
            old = camera.frame()
            assert old is not None
            newest = camera.frame()
            assert newest is not None
            _, *captured = camera.stamps[newest]
            monotonic, unix = (time_ns - round(before_s * 1e9) for time_ns in captured)
            camera.stamps[old] = camera.stamps[old][0], monotonic, unix
            camera.result(old)
            plain, drawn = (
                gateway.ask("/snapshot/hall.jpg"),
                gateway.ask("/snapshot/hall.jpg?boxes=1"),
            )
            assert (plain.status, drawn.status) == (200, 200)
            bare, boxed = (simplejpeg.decode_jpeg(a.body).astype(int) for a in (plain, drawn))
            changed = np.abs(boxed - bare).sum(axis=2) > 120
            assert changed.any() == is_drawn, before_s


def test_snapshot_of_an_mjpeg_camera_is_its_own_jpeg(tmp_path: Path) -> None:
    own = simplejpeg.encode_jpeg(np.full((480, 640, 3), 77, np.uint8), colorsubsampling="422")
    with cameras(tmp_path, "hall", jpeg_capacity=200_000, live_s=60) as (config, fakes):
        with Gateway(config) as gateway:
            fakes["hall"].frame(jpeg=own)
            assert gateway.ask("/snapshot/hall.jpg").body == own
            fakes["hall"].frame(jpeg=b"\xff\xd8 this is no JPEG")
            mended = gateway.ask("/snapshot/hall.jpg").body
            assert simplejpeg.decode_jpeg(mended).shape == (480, 640, 3)


def test_old_picture_is_not_shown_as_if_it_were_live(tmp_path: Path) -> None:
    """A dashboard showed an empty hall for minutes while the camera was offline."""
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        fakes["hall"].play()
        wait_for(lambda: gateway.ask("/snapshot/hall.jpg").status == 200)
        fakes["hall"].stand_still()
        for path in ("/snapshot/hall.jpg", "/snapshot/hall.jpg?boxes=1", "/stream/hall.mjpeg"):
            wait_for(lambda: gateway.ask("/snapshot/hall.jpg").status == 503)
            old = ask_start(gateway, path)
            assert old.status == 503
            assert old.headers["retry-after"] == "5"
            error = old.json()["error"]
            found = re.fullmatch(r"camera hall is not live: its last picture is (\d+) s old", error)
            assert found, error
            assert int(found[1]) >= 1
        fakes["hall"].alive = True
        wait_for(lambda: gateway.ask("/snapshot/hall.jpg").status == 200)
        assert ask_start(gateway, "/stream/hall.mjpeg").status == 200


def ask_start(gateway: Gateway, path: str) -> Answer:
    """Return the response, without the body if that may be endless."""
    with closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, headers, b"" if response.status == 200 else response.read())


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
def test_alarm_classes_that_cannot_be_detected(
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

            def shown() -> dict[str, Any] | None:
                found: dict[str, Any] = gateway.ask("/api/cameras").json()["cameras"][0]["watching"]
                return found if found["part"] == part else None

            found = wait_for(shown)
            assert found is not None
            assert len(found["warnings"]) == warnings
            assert repr(classes[0]) in str(found["warnings"])


def test_cameras_and_events(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        known = gateway.ask("/api/cameras").json()["cameras"]
        assert [camera["name"] for camera in known] == ["hall"]
        assert known[0]["state"]["state"] == "unknown"
        assert known[0]["status"]["state"] == "offline"
        fakes["hall"].report()
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
        # Each of these requests logged a traceback
        probe = gateway.ask("/readyz", headers=browser)
        assert (probe.status, probe.json()["ready"]) == (503, False)
        # Parsing them blocked the gateway for tens of milliseconds each
        endless = {"Accept": "text/html" + ",a/b;q=0.5" * 1000}
        assert gateway.ask("/nothing", headers=endless).json()["error"]


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
        time.sleep(0.1)  # the rate limit of the gateway
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
def open_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with cameras(folder, "hall", live_s=600) as (config, fakes), Gateway(config) as gateway:
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
