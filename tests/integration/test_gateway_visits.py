"""The gateway's routes for visits: paging, filters, range requests and access control."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.evidence import crop, keep_visits, picture, visit_id
from support.gateway import Gateway, cameras
from tridetr.config.node_sections import EvidenceSection
from tridetr.gateway import disk_reader

TOKEN = "a-token-of-enough-length"
COUNT = 23


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("visits")
    with cameras(folder, "hall", "yard") as (config, _):
        path = folder / "evidence"
        keep_visits(path, COUNT, cameras=("hall", "yard"), classes=("person", "car", "dog"))
        config = config.model_copy(update={"evidence": EvidenceSection(path=path)})
        with Gateway(config) as running:
            yield running


def ids(gateway: Gateway, query: str = "") -> list[str]:
    return [v["visit_id"] for v in gateway.ask(f"/api/visits{query}").json()["visits"]]


def test_paging_returns_every_visit_once_newest_first(gateway: Gateway) -> None:
    seen: list[str] = []
    query = "?limit=5"
    while True:
        page = gateway.ask(f"/api/visits{query}").json()
        seen += [visit["visit_id"] for visit in page["visits"]]
        if page["next"] is None:
            break
        query = f"?limit=5&before={page['next']}"
    assert seen == [visit_id(number) for number in reversed(range(COUNT))]
    assert page["classes"] == ["car", "dog", "person"]


def test_visits_are_filtered_by_camera_class_and_time(gateway: Gateway) -> None:
    assert ids(gateway, "?camera=yard") == [visit_id(n) for n in reversed(range(1, COUNT, 2))]
    assert ids(gateway, "?class=dog") == [visit_id(n) for n in reversed(range(2, COUNT, 3))]
    assert ids(gateway, "?camera=yard&class=dog") == [visit_id(n) for n in (17, 11, 5)]
    now_ms = int(time.time() * 1000)
    recent = ids(gateway, f"?from_unix_ms={now_ms - 10 * 60_000}")
    assert recent == [visit_id(COUNT - 1), visit_id(COUNT - 2)]
    older = ids(gateway, f"?to_unix_ms={now_ms - 10 * 60_000}")
    assert older == [visit_id(n) for n in reversed(range(COUNT - 2))]
    assert ids(gateway, "?camera=nowhere") == []


def test_visit_has_its_neighbours(gateway: Gateway) -> None:
    found = gateway.ask(f"/api/visits/{visit_id(7)}").json()
    assert (found["newer"], found["older"]) == (visit_id(8), visit_id(6))
    assert found["picture"]["boxes"][0]["xyxy"] == [250.0, 60.0, 370.0, 340.0]
    assert found["clip"]["encoded"] is True
    assert gateway.ask(f"/api/visits/{visit_id(COUNT - 1)}").json()["newer"] is None
    # The neighbours in a filtered list
    filtered = gateway.ask("/api/visits?camera=yard&class=car").json()["visits"]
    first, second, third = filtered[:3]
    asked = f"/api/visits/{second['visit_id']}?camera=yard&class=car"
    found = gateway.ask(asked).json()
    assert (found["newer"], found["older"]) == (first["visit_id"], third["visit_id"])
    assert gateway.ask(f"{asked}&to_unix_ms=1").json()["older"] is None
    assert gateway.ask(f"{asked}&to_unix_ms=x").status == 400
    assert gateway.ask(f"/api/visits/{visit_id(0)}").json()["older"] is None


def test_head_has_the_headers_of_get_and_does_not_read_the_file(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole clip was read from the disk, and not used."""
    path = f"/api/visits/{visit_id(3)}/clip.mp4"
    sent = gateway.ask(path)
    reads = []

    def pread(*_: object) -> bytes:
        reads.append(1)
        return b""

    monkeypatch.setattr(os, "pread", pread)
    for headers in ({}, {"Range": "bytes=10-19"}):
        answer = gateway.ask(path, "HEAD", headers)
        size = 10 if headers else len(sent.body)
        assert (answer.status, answer.body) == (206 if headers else 200, b"")
        assert answer.headers["content-length"] == str(size)
        assert answer.headers["etag"] == sent.headers["etag"]
    assert not reads


def test_pictures_and_crops_are_served_with_an_etag(gateway: Gateway) -> None:
    whole = gateway.ask(f"/api/visits/{visit_id(3)}/picture.jpg")
    assert (whole.status, whole.headers["content-type"]) == (200, "image/jpeg")
    assert whole.body == picture(3)
    assert gateway.ask(f"/api/visits/{visit_id(3)}/picture.jpg?crop=1").body == crop(3)
    known = {"If-None-Match": whole.headers["etag"]}
    assert gateway.ask(f"/api/visits/{visit_id(3)}/picture.jpg", headers=known).status == 304


def test_clips_are_served_in_ranges(gateway: Gateway) -> None:
    address = f"/api/visits/{visit_id(3)}/clip.mp4"
    whole = gateway.ask(address)
    assert (whole.status, whole.headers["content-type"]) == (200, "video/mp4")
    assert whole.headers["accept-ranges"] == "bytes"
    part = gateway.ask(address, headers={"Range": "bytes=100-299"})
    assert part.status == 206
    assert part.headers["content-range"] == f"bytes 100-299/{len(whole.body)}"
    assert part.body == whole.body[100:300]
    end = gateway.ask(address, headers={"Range": "bytes=-50"})
    assert end.body == whole.body[-50:]
    longer = gateway.ask(address, headers={"Range": f"bytes=-{len(whole.body) + 1000}"})
    assert (longer.status, longer.body) == (206, whole.body)
    assert longer.headers["content-range"] == f"bytes 0-{len(whole.body) - 1}/{len(whole.body)}"
    for several in ("bytes=0-1,5-6", "pages=1-2"):
        answer = gateway.ask(address, headers={"Range": several})
        assert (answer.status, answer.body) == (200, whole.body)
    assert gateway.ask(address, headers={"Range": f"bytes={len(whole.body)}-"}).status == 416
    assert gateway.ask(address, method="HEAD").headers["content-length"] == str(len(whole.body))


def test_files_on_a_disk_that_hangs_delay_no_other_route(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six reads that did not return used to stop the metrics, the events and the checks of all cameras."""
    monkeypatch.setattr(disk_reader, "PATIENCE_S", 0.05)
    with cameras(tmp_path, "hall") as (config, _):
        path = tmp_path / "evidence"
        keep_visits(path, 1, clips=False)
        files = list((path / "files").iterdir())
        for file in files:
            file.unlink()
            os.mkfifo(file)  # opening it does not return while nothing writes to it
        config = config.model_copy(update={"evidence": EvidenceSection(path=path)})
        (config.run_dir / "metrics").mkdir(parents=True)
        with Gateway(config) as gateway:
            try:
                for _ in range(40):  # more than there are threads in any pool
                    answer = gateway.ask(f"/api/visits/{visit_id(0)}/picture.jpg")
                    assert answer.status == 503
                    assert "does not answer" in answer.json()["error"]
                assert gateway.ask("/api/events").status == 200
                assert gateway.ask("/metrics").status == 200
            finally:
                for file in files:
                    os.close(os.open(file, os.O_RDWR))


@pytest.mark.parametrize(
    "path",
    [
        "/api/visits/unknown",
        "/api/visits/unknown/clip.mp4",
        "/api/visits/..%2Fevidence.db",
        "/api/visits/..%2F..%2Fetc/picture.jpg",
        "/api/visits/'--/clip.mp4",
    ],
)
def test_no_other_files_are_served(gateway: Gateway, path: str) -> None:
    assert gateway.ask(path).status == 404


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "before=-1",
        "before=x",
        "from_unix_ms=1e3",
        "to_unix_ms=99999999999999",
    ],
)
def test_wrong_parameters(gateway: Gateway, query: str) -> None:
    assert gateway.ask(f"/api/visits?{query}").status == 400


def test_the_timeline_has_visits_blind_and_unrecorded_spans(gateway: Gateway) -> None:
    now_ms = int(time.time() * 1000)
    line = gateway.ask(f"/api/timeline?from_unix_ms={now_ms - 86_400_000}").json()
    hall, yard = line["cameras"]["hall"], line["cameras"]["yard"]
    assert sum(span["kind"] == "visit" for span in hall) == 12
    assert [span["kind"] for span in hall if span["kind"] != "visit"][:1] == ["blind"]
    assert not [span for span in yard if span["kind"] == "blind"]
    before = next(span for span in yard if span["kind"] == "unrecorded")
    assert abs(before["to_unix_ms"] - (now_ms - 180 * 60_000)) < 60_000
    assert gateway.ask(f"/api/timeline?from_unix_ms={now_ms}&hours=193").status == 400
    assert gateway.ask("/api/timeline").status == 400


def test_token_is_required(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    with cameras(tmp_path, "hall", gateway={"token_file": file}) as (config, _):
        path = tmp_path / "evidence"
        keep_visits(path, 1)
        config = config.model_copy(update={"evidence": EvidenceSection(path=path)})
        with Gateway(config) as gateway:
            for address in (
                "/api/visits",
                f"/api/visits/{visit_id(0)}",
                f"/api/visits/{visit_id(0)}/picture.jpg",
                f"/api/visits/{visit_id(0)}/clip.mp4",
                "/api/timeline?from_unix_ms=0",
            ):
                assert gateway.ask(address).status == 401
                right = {"Authorization": f"Bearer {TOKEN}"}
                assert gateway.ask(address, headers=right).status == 200


def test_without_evidence_there_is_nothing(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, _), Gateway(config) as gateway:
        assert gateway.ask("/api/visits").json() == {
            "enabled": False,
            "classes": [],
            "visits": [],
            "next": None,
        }
        assert gateway.ask(f"/api/visits/{visit_id(0)}").status == 404


def test_before_the_first_visit(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, _):
        config = config.model_copy(update={"evidence": EvidenceSection(path=tmp_path / "none")})
        with Gateway(config) as gateway:
            assert gateway.ask("/api/visits").json()["visits"] == []
            line = gateway.ask("/api/timeline?from_unix_ms=0").json()
            assert [span["kind"] for span in line["cameras"]["hall"]] == ["unrecorded"]
