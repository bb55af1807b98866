"""Downloads from a real HTTP server on loopback: ranges, interruptions, wrong checksums."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from support.tiny_export import tiny_export
from tridetr.contract import COCO_91
from tridetr.errors import ModelError
from tridetr.models import download as downloading
from tridetr.models.catalogue import Catalogue, Entry, load_catalogue
from tridetr.models.download import Checksum, download
from tridetr.models.fuse import fuse
from tridetr.models.installed_models import installed, installed_path, missing_model, resolve_model
from tridetr.models.pull import pull

BODY = bytes(range(256)) * 4000


@dataclass
class Server:
    """The server's behaviour, and the requests that it got."""

    url: str = ""
    body: bytes = BODY
    etag: str = '"one"'
    stop_after: int | None = None
    redirect: str | None = None
    announced: bool = True
    ranges: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            start = 0
            if state.redirect:
                self.send_response(302)
                self.send_header("Location", state.redirect)
                self.end_headers()
                return
            if asked and self.headers.get("If-Range") == state.etag:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                self.send_response(206)
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(state.body) - 1}/{len(state.body)}"
                )
            else:
                self.send_response(200)
            rest = state.body[start:]
            if state.announced:
                self.send_header("Content-Length", str(len(rest)))
            self.send_header("ETag", state.etag)
            self.end_headers()
            self.wfile.write(rest if state.stop_after is None else rest[: state.stop_after])

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/model.bin"
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def sha256(body: bytes) -> Checksum:
    return Checksum("sha256", hashlib.sha256(body).hexdigest())


def test_a_complete_file_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "model.bin"
    download(server.url, target, sha256(BODY), lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == BODY
    assert seen[0] == (0, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    download(server.url, target, sha256(BODY))
    assert len(server.ranges) == 1


def test_an_interrupted_download_is_resumed(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "model.bin"
    server.stop_after = 300_000
    with pytest.raises(ModelError, match="interrupted after 300000 of 1024000"):
        download(server.url, target, sha256(BODY))
    assert not target.exists()
    server.stop_after = None
    download(server.url, target, sha256(BODY))
    assert server.ranges == [None, "bytes=300000-"]
    assert target.read_bytes() == BODY
    assert not list(tmp_path.glob("*.part*.json"))


def test_a_file_that_changed_is_downloaded_from_the_start(server: Server, tmp_path: Path) -> None:
    """The rest of another version must not be appended to the part of the first."""
    target = tmp_path / "model.bin"
    server.stop_after = 300_000
    with pytest.raises(ModelError):
        download(server.url, target, sha256(BODY))
    server.body, server.etag, server.stop_after = BODY[::-1], '"two"', None
    download(server.url, target, sha256(BODY[::-1]))
    assert target.read_bytes() == BODY[::-1]


def test_a_file_with_a_wrong_checksum_is_deleted(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "model.bin"
    with pytest.raises(ModelError, match=f"expected sha256:{'0' * 64}: not installed"):
        download(server.url, target, Checksum("sha256", "0" * 64))
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".bin", ".part")] == []


def test_an_unreachable_host_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "RESOLVE_TIMEOUT_S", 0.2)
    monkeypatch.setenv("no_proxy", "camera.example")  # excludes a host, but sets no proxy
    with pytest.raises(ModelError, match="offline or has no DNS"):
        download("https://models.invalid/m.bin", tmp_path / "m", sha256(b""))
    with pytest.raises(ModelError, match="cannot connect to"):
        download("http://127.0.0.1:1/m.bin", tmp_path / "m", sha256(b""))


@pytest.mark.parametrize("text", ["", "sha256:12", "sha1:" + "0" * 40, "md5:" + "g" * 32])
def test_invalid_checksums_are_refused(text: str) -> None:
    with pytest.raises(ModelError, match="is not a checksum"):
        Checksum.parse(text)


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_above_the_size_limit_is_not_stored(
    server: Server, tmp_path: Path, announced: bool
) -> None:
    server.announced = announced
    with pytest.raises(ModelError, match=r"the limit of .* bytes: not"):
        download(server.url, tmp_path / "model.bin", sha256(BODY), limit=len(BODY) - 1)
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".bin", ".part")]
    assert download(server.url, tmp_path / "model.bin", sha256(BODY), limit=len(BODY))


def test_a_file_larger_than_the_free_space_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(free=1000)
    monkeypatch.setattr("tridetr.models.download.shutil.disk_usage", lambda path: full)
    with pytest.raises(ModelError, match="only 1000 bytes are free"):
        download(server.url, tmp_path / "model.bin", sha256(BODY))


@pytest.mark.parametrize(
    "url", ["http://example.org/m", "http://127.0.0.1.evil.com/m", "ftp://localhost/m"]
)
def test_plain_http_is_refused_also_as_a_redirect(server: Server, tmp_path: Path, url: str) -> None:
    for source in (url, server.url):
        server.redirect = url
        with pytest.raises(ModelError, match="only over https://"):
            download(source, tmp_path / "model.bin", sha256(BODY))
        if source.startswith("http"):
            with pytest.raises(ModelError, match="only over https://"):
                load_catalogue(source)


def test_a_password_in_the_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    url = "https://me:s3cret@example.org/m.json"
    for get in (load_catalogue, lambda url: download(url, tmp_path / "m", sha256(b""))):
        with pytest.raises(ModelError, match="user name or password") as caught:
            get(url)
        assert "s3cret" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_endless_catalogue_is_refused(server: Server) -> None:
    server.body = b" " * (2 << 20)
    with pytest.raises(ModelError, match="larger than"):
        load_catalogue(server.url)


def contract_bytes() -> bytes:
    data: bytes = fuse(tiny_export(), classes=COCO_91, source="test").SerializeToString()
    return data


def entry(server: Server, **changes: object) -> Entry:
    values: dict[str, Any] = {
        "name": "tiny",
        "url": server.url,
        "checksum": str(sha256(server.body)),
        "kind": "contract",
    }
    return Entry(**values | changes)


def no_python() -> Path:
    raise AssertionError("no export environment is needed")


def test_pull_installs_a_contract_model(server: Server) -> None:
    server.body = contract_bytes()
    path = pull(entry(server), python=no_python)
    assert path == installed_path("tiny")
    assert installed() == {"tiny": path}
    assert resolve_model("tiny").read_bytes() == server.body
    with pytest.raises(ModelError, match="installed already"):
        pull(entry(server), python=no_python)
    pull(entry(server), python=no_python, replace=True)


@pytest.mark.parametrize("path", ["", "/", "/..", "/a/.."])
def test_the_last_part_of_a_url_may_be_no_file_name(path: str) -> None:
    made = Entry(
        name="m", url=f"https://example.org{path}", checksum="md5:" + "0" * 32, kind="export"
    )
    assert made.file_name in ("m", "a")


def test_pull_refuses_a_file_that_is_not_a_contract_model(server: Server) -> None:
    server.body = tiny_export().SerializeToString()
    with pytest.raises(ModelError, match="does not conform to the model contract"):
        pull(entry(server), python=no_python)
    server.body = b"no model at all"
    with pytest.raises(ModelError, match="cannot load"):
        pull(entry(server), python=no_python)
    assert installed() == {}
    assert list(installed_path("tiny").parent.iterdir()) == [], "nothing half-written stays"


def test_pull_does_not_install_a_mismatch(server: Server) -> None:
    server.body = contract_bytes()
    with pytest.raises(ModelError, match="not installed"):
        pull(entry(server, checksum="sha256:" + "1" * 64), python=no_python)
    assert installed() == {}


def test_pull_fuses_an_export_with_class_names(server: Server) -> None:
    from tridetr.models.onnx_file import read_card, set_metadata
    from tridetr.models.raw_export import export_metadata

    model = tiny_export(columns=3)
    set_metadata(model, export_metadata({"cat": 0, "dog": 1}, "a test"))
    server.body = model.SerializeToString()
    card = read_card(pull(entry(server, kind="export"), python=no_python))
    assert card is not None
    assert dict(card.classes) == {"cat": 0, "dog": 1}


def test_unknown_names_get_suggestions(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tridetr models pull nothing"):
        resolve_model("nothing")
    with pytest.raises(ModelError, match="no such model file"):
        resolve_model(tmp_path / "nothing.onnx")
    path = tmp_path / "own.onnx"
    onnx.save(tiny_export(), path)
    assert resolve_model(path) == path
    with pytest.raises(ModelError, match="not a valid model name"):
        installed_path("../escape")
    installed_path("yard-1.2").parent.mkdir(parents=True)
    installed_path("yard-1.2").touch()
    with pytest.raises(ModelError, match=r"did you mean 'yard-1\.2'"):
        resolve_model("yard1.2")
    with pytest.raises(ModelError, match="did you mean 'rfdetr-nano'"):
        load_catalogue().find("rfdetr_nano")
    assert "did you mean 'yard-1.2'" in missing_model(tmp_path / "yard-1.3")
    assert "did you mean 'rfdetr-nano'" in missing_model(tmp_path / "rfdetr-nan")


def test_the_builtin_catalogue_is_valid() -> None:
    catalogue = load_catalogue()
    assert [one.name for one in catalogue.models] == [
        f"rfdetr-{size}" for size in ("nano", "small", "medium", "large")
    ]
    assert all(one.variant and one.kind == "checkpoint" for one in catalogue.models)
    with pytest.raises(ModelError, match="it has rfdetr-nano"):
        catalogue.find("yolo")


@pytest.mark.parametrize(
    "change",
    [
        {"checksum": None},
        {"url": "http://example.org/m"},
        {"kind": "pickle"},
        {"x": 1},
        {"file": "/home/me/.ssh/authorized_keys"},
        {"file": "../../authorized_keys"},
        {"file": ".."},
        {"file": "a\0b"},
    ],
)
def test_bad_catalogues_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    good = {
        "name": "m",
        "url": "https://example.org/m",
        "checksum": "md5:" + "0" * 32,
        "kind": "export",
    }
    path = tmp_path / "catalogue.json"
    path.write_text(json.dumps({"version": 1, "models": [good]}))
    assert isinstance(load_catalogue(str(path)), Catalogue)
    bad = {key: value for key, value in (good | change).items() if value is not None}
    path.write_text(json.dumps({"version": 1, "models": [bad]}))
    with pytest.raises(ModelError, match="is not a valid catalogue"):
        load_catalogue(str(path))
