"""Real footage through the whole pipeline, with a model that detects people in it.

Each visit gives the recorded decisions, a picture of the person and a clip of the camera's own packets.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import numpy as np
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from support.data import FOOTAGE, FOOTAGE_TRUTH, ORACLE, shared
from support.mosquitto import running_mosquitto
from support.node import running_node
from tridetr.shm.detections import DetectionReader

PERSON = 1
MIN_SCORE = 0.5
VISITS = [(228, 444), (511, 694), (747, 863), (940, 1182), (1237, 1357)]
FPS = 10
GOP_S = 1.0
BEFORE_S, AFTER_S = 5.0, 10.0


class Results(threading.Thread):
    """Collects every result of a camera."""

    def __init__(self, instance: str, camera: str) -> None:
        super().__init__(daemon=True)
        self.found: dict[int, np.ndarray] = {}
        self._instance, self._camera = instance, camera
        self._done = threading.Event()

    def run(self) -> None:
        reader, after = DetectionReader(self._instance, self._camera, None), 0
        while not self._done.is_set():
            while (lease := reader.lease_next(after)) is not None:
                with lease:
                    after = lease.sequence
                    self.found[lease.stamp.frame_number] = lease.detections.copy()
            self._done.wait(0.003)
        reader.close()

    def stop(self) -> None:
        self._done.set()
        self.join()


def subscriber(port: int, events: list[dict[str, Any]]) -> mqtt.Client:
    client = mqtt.Client(CallbackAPIVersion.VERSION2)

    def on_connect(client: mqtt.Client, *_: object) -> None:
        client.subscribe("tridetr/+/+/events", qos=1)

    def on_message(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        events.append(json.loads(message.payload))

    client.on_connect, client.on_message = on_connect, on_message
    client.connect("127.0.0.1", port)
    client.loop_start()
    return client


def iou(a: Any, b: Any) -> float:
    left, top = np.maximum(a[:2], b[:2])
    right, bottom = np.minimum(a[2:4], b[2:4])
    common = max(0.0, right - left) * max(0.0, bottom - top)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return float(common / (sum(areas) - common))


def packets_of(path: Path) -> list[tuple[str, bool]]:
    with av.open(str(path)) as container:
        found = container.demux(container.streams.video[0])
        return [(sha256(bytes(p)).hexdigest(), p.is_keyframe) for p in found if p.size]


def luma(frame: av.VideoFrame) -> np.ndarray:
    return frame.to_ndarray(format="gray").astype(int)


@dataclass
class Run:
    """What a node gave while it processed the footage.

    Attributes:
        summary: Its statistics, as JSON.
        results: Detections, by frame number.
        events: Those sent over MQTT.
        evidence: Folder of its pictures and clips.
        truth: Boxes and scores that were recorded for each frame.
    """

    summary: dict[str, Any]
    results: dict[int, np.ndarray]
    events: list[dict[str, Any]]
    evidence: Path
    truth: Any


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    footage, oracle = shared(*FOOTAGE), shared(*ORACLE)
    truth = json.loads(shared(*FOOTAGE_TRUTH).read_text())["detections"]
    folder = tmp_path_factory.mktemp("footage")
    events: list[dict[str, Any]] = []
    with running_mosquitto(folder / "broker") as broker:
        client = subscriber(broker.port, events)
        with running_node(
            folder,
            {"hall": {"source": str(footage), "realtime": False, "loop": False}},
            model={"file": str(oracle), "precision": "fp32"},
            detect={"min_score": MIN_SCORE, "classes": ["person"]},
            mqtt={"host": "127.0.0.1", "port": broker.port},
            evidence={"before_s": BEFORE_S, "after_s": AFTER_S},
        ) as node:
            results = Results(node.instance, "hall")
            results.start()
            summary = node.finish(within_s=500)
            results.stop()
        client.loop_stop()
    return Run(summary, results.found, events, folder / "state" / "evidence", truth)


@pytest.mark.timeout(600)
def test_footage_gives_the_recorded_decisions(run: Run) -> None:
    camera = run.summary["cameras"]["hall"]
    assert camera["frames_inferred"] == camera["frames_published"] == len(run.results)
    assert camera["frames_inferred"] > 400
    assert camera["frame_age_ms"]["p50"] is None, "the frames have the times of the recording"
    assert camera["total_ms"]["p50"] >= camera["infer_ms"]["p50"] > 0
    assert not any(run.summary["restarts"].values())

    faults = []
    for number, found in run.results.items():
        expected = [row for row in run.truth[number] if row[4] >= MIN_SCORE]
        sure = [row for row in expected if row[4] >= MIN_SCORE + 0.02]
        for row in sure:
            box = np.asarray(row)
            if not any(
                iou(box, np.array([d["x1"], d["y1"], d["x2"], d["y2"]])) >= 0.95
                and abs(d["score"] - box[4]) <= 0.02
                for d in found
            ):
                faults.append((number, row, found.tolist()))
        certain = [d for d in found if d["score"] >= MIN_SCORE + 0.02]
        if len(certain) > len([row for row in run.truth[number] if row[4] >= MIN_SCORE - 0.02]):
            faults.append((number, "too many", found.tolist()))
    assert not faults, faults[:5]

    kinds = [event["kind"] for event in run.events]
    assert kinds == ["person_arrived", "person_left"] * 5, kinds
    assert len({event["event_id"] for event in run.events}) == 10
    arrivals = [e["frame_number"] for e in run.events if e["kind"] == "person_arrived"]
    for arrival, (first, last) in zip(arrivals, VISITS, strict=True):
        assert first <= arrival <= last


@pytest.mark.timeout(600)
def test_five_visits_have_five_pictures_and_five_clips(run: Run) -> None:
    with closing(sqlite3.connect(run.evidence / "evidence.db")) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM visit ORDER BY seq").fetchall()
    assert len(rows) == len(VISITS)
    assert len({file.name for file in (run.evidence / "files").iterdir()}) == 3 * len(VISITS)

    footage = shared(*FOOTAGE)
    camera = packets_of(footage)
    with av.open(str(footage)) as container:
        frames = list(container.decode(video=0))
    for row, (first, last) in zip(rows, VISITS, strict=True):
        assert (row["camera"], row["class"], row["is_open"]) == ("hall", "person", 0)
        seen = _check_picture(run.evidence / "files" / row["picture"], row, frames, run.truth)
        assert first <= seen <= last
        _check_clip(run.evidence / "files" / row["clip"], row, camera, last)


def _check_picture(path: Path, row: Any, frames: list[av.VideoFrame], truth: Any) -> int:
    """Check that the picture is the stated frame, without boxes, and the best one; return its frame number."""
    facts = json.loads(row["picture_facts"])
    number = int(facts["frame_number"])
    with av.open(str(path)) as jpeg:
        picture = next(jpeg.decode(video=0))
    original = frames[number]
    assert (picture.width, picture.height) == (original.width, original.height)
    assert np.abs(luma(picture) - luma(original)).mean() < 6
    others = [np.abs(luma(picture) - luma(frames[n])).mean() for n in (number - 8, number + 8)]
    assert np.abs(luma(picture) - luma(original)).mean() < min(others)
    best = max(facts["boxes"], key=lambda box: box["score"])
    assert max(iou(np.array(best["xyxy"]), np.array(found)) for found in truth[number]) > 0.9
    x, y, width, height = facts["crop"]
    left, top, right, bottom = best["xyxy"]
    assert x <= left
    assert y <= top
    assert x + width >= right - 1
    assert y + height >= bottom - 1
    with av.open(str(path.with_name(row["crop"]))) as jpeg:
        crop = next(jpeg.decode(video=0))
    assert (crop.width, crop.height) == (width, height)
    return number


def _check_clip(path: Path, row: Any, camera: list[tuple[str, bool]], last: int) -> None:
    """Check that the clip has the camera's packets unchanged, from before the first to after the last detection."""
    found = packets_of(path)
    assert found[0][1], "the clip starts with a key frame"
    places = range(len(camera) - len(found) + 1)
    begin = next((n for n in places if camera[n : n + len(found)] == found), None)
    assert begin is not None, "the packets are the camera's, and none is missing"
    facts = json.loads(row["clip_facts"])
    assert not facts["encoded"]
    start = (row["started_unix_ns"] - facts["started_unix_ns"]) / 1e9
    assert BEFORE_S <= start <= BEFORE_S + GOP_S
    end = (facts["ended_unix_ns"] - row["ended_unix_ns"]) / 1e9
    if last + AFTER_S * FPS < len(camera):  # otherwise the footage ends earlier
        assert AFTER_S - GOP_S <= end <= AFTER_S
    with av.open(str(path)) as clip:
        stream = clip.streams.video[0]
        assert stream.duration is not None
        assert stream.time_base is not None
        assert abs(float(stream.duration * stream.time_base) - len(found) / FPS) < 0.2
        assert sum(1 for _ in clip.decode(stream)) == len(found)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), (
        "a browser can start playing before the download is complete"
    )
