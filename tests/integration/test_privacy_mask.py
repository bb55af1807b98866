"""No output shows a masked area: rings, WebSocket, snapshot, streams, picture, clip, MQTT, notification."""

from __future__ import annotations

import base64
import io
import json
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from support.data import FOOTAGE, ORACLE, shared
from support.gateway import Watcher
from support.mosquitto import listening, running_mosquitto
from support.node import Node, running_node
from support.waiting import wait_for
from support.webhooks import running_webhooks
from tridetr.gateway.message import PROTOCOL
from tridetr.i420 import planes
from tridetr.shm.frames import FrameReader
from tridetr.shm.names import list_instance

# The marker fills the upper left of the picture; the mask covers it and a little more.
MARKER = (slice(0, 96), slice(0, 128))
MASK = [[[0, 0], [0.2, 0], [0.2, 0.25], [0, 0.25]]]
FIRST, COUNT = 300, 100  # of the footage, with a person in all of them


def marked_footage(folder: Path, codec: str) -> Path:
    """Return footage with easily detected stripes in the corner that will be masked."""
    path = folder / {"libx264": "marked.mp4", "mjpeg": "marked.avi"}[codec]
    stripes = np.where(np.arange(128) // 8 % 2, 255, 0).astype(np.uint8)
    with av.open(str(shared(*FOOTAGE))) as source, av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=10)
        stream.width, stream.height = 768, 432
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number, frame in enumerate(source.decode(video=0)):
            if not FIRST <= number < FIRST + COUNT:
                continue
            pixels = frame.to_ndarray(format="rgb24")
            pixels[MARKER] = stripes[None, :, None]
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))
    return path


def shows_marker(luma: np.ndarray) -> bool:
    """Return whether the marker's area contains anything but the mask's grey, in a picture of any size."""
    height, width = luma.shape
    corner = luma[: int(height * 96 / 432 * 0.95), : int(width * 128 / 768 * 0.95)].astype(int)
    return float(corner.std()) > 6 or not 100 < corner.mean() < 150


def luma_of(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_no_output_shows_the_masked_area(tmp_path: Path, codec: str) -> None:
    footage, oracle = marked_footage(tmp_path, codec), shared(*ORACLE)
    with av.open(str(footage)) as container:
        assert shows_marker(next(container.decode(video=0)).to_ndarray(format="gray"))
    url = tmp_path / "webhook-url"
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_webhooks() as hook,
    ):
        url.write_text(hook.url)
        target = {"name": "hook", "kind": "webhook", "url_file": str(url), "when": "always"}
        with running_node(
            tmp_path,
            {"hall": {"source": str(footage), "mask": MASK}},
            model={"file": str(oracle), "precision": "fp32"},
            detect={"min_score": 0.4, "classes": ["person"]},
            evidence={"before_s": 1, "after_s": 1},
            mqtt={"host": "127.0.0.1", "port": broker.port, "pictures": True},
            notify=[target],
        ) as node:
            _wait_for_visit(node)
            for name, luma in _live_outputs(node):
                assert not shows_marker(luma), name
            assert not [path for path in list_instance(node.instance) if "-packets-" in path.name]
            for name, luma in _visit_outputs(node):
                assert not shows_marker(luma), name
            sent = wait_for(lambda: hook.taken, 30, "no notification")[0].json()["picture"]
            assert not shows_marker(luma_of(base64.b64decode(sent["base64"]))), "notification"
            published = wait_for(lambda: ear.payloads("/hall/picture"), 30, "no picture over MQTT")
            assert not shows_marker(luma_of(published[-1])), "MQTT"
            node.stop()
    kept = list(_kept(tmp_path / "state" / "evidence"))
    assert {name for name, _ in kept} == {"picture", "clip"}
    for name, luma in kept:
        assert not shows_marker(luma), name


def _wait_for_visit(node: Node) -> None:
    def arrived() -> bool:
        events = json.loads(node.get("/api/events"))["events"]
        return any(event["kind"] == "person_arrived" for event in events)

    wait_for(lambda: node.cameras() and arrived(), 90, "nobody was seen")


def _live_outputs(node: Node) -> Iterator[tuple[str, np.ndarray]]:
    with FrameReader(node.instance, "hall", None) as reader:
        lease = wait_for(reader.lease_newest)
        with lease:
            y, u, v = (plane.copy() for plane in planes(lease.planes))
            assert not len(lease.jpeg), "the camera's own JPEG is in the slot"
    yield "frame ring", y
    for plane in (u, v):
        corner = plane[:48, :64]
        assert (corner == 128).all()
    for query in ("", "?small=1", "?boxes=1"):
        yield f"snapshot{query}", luma_of(node.get(f"/snapshot/hall.jpg{query}"))
    for size in ("small", "full"):
        yield from _socket(node, size)
    for query in ("", "?size=small"):
        for jpeg in _stream(node, f"/stream/hall.mjpeg{query}", 3):
            yield f"stream{query}", luma_of(jpeg)
    with pytest.raises(urllib.error.HTTPError) as refused:
        node.get("/stream/hall.mp4")
    refused.value.close()
    assert refused.value.code == 403


def _stream(node: Node, path: str, count: int) -> Iterator[bytes]:
    """Yield the first pictures of an endless multipart stream."""
    with urllib.request.urlopen(node.url + path, timeout=20) as answer:
        for _ in range(count):
            size = 0
            while line := answer.readline().strip().lower():
                name, _, value = line.partition(b":")
                size = int(value) if name == b"content-length" else size
            yield answer.read(size)
            assert answer.readline() == b"\r\n"


def _visit_outputs(node: Node) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the gateway's outputs of the open visit."""

    def with_picture() -> Any:
        return [row for row in json.loads(node.get("/api/visits"))["visits"] if row["picture"]]

    found = wait_for(with_picture, 60, "no picture")[0]
    yield "picture.jpg", luma_of(node.get(f"/api/visits/{found['visit_id']}/picture.jpg"))


def _socket(node: Node, size: str) -> Iterator[tuple[str, np.ndarray]]:
    address = f"{node.url.replace('http', 'ws')}/ws/hall"
    with Watcher(connect(address, subprotocols=[Subprotocol(PROTOCOL)], max_size=None)) as viewer:
        viewer.send(type="view", size=size, video=True)
        _, jpeg = viewer.until("frame")
        for _ in range(30):
            header, _ = viewer.next()
            assert header["type"] != "video"
    yield f"WebSocket, {size}", luma_of(jpeg)


def _kept(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    with closing(sqlite3.connect(folder / "evidence.db")) as connection:
        rows: list[Any] = connection.execute(
            "SELECT picture, clip, clip_facts FROM visit"
        ).fetchall()
    for picture, clip, facts in rows:
        yield "picture", luma_of((folder / "files" / picture).read_bytes())
        assert json.loads(facts)["encoded"]
        with av.open(str(folder / "files" / clip)) as container:
            for frame in container.decode(video=0):
                yield "clip", frame.to_ndarray(format="gray")
