"""Real footage through the whole pipeline, with a model that detects people in it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

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


class Recorder(threading.Thread):
    """Collects every result of a camera."""

    def __init__(self, instance: str, camera: str) -> None:
        super().__init__(daemon=True)
        self.results: dict[int, np.ndarray] = {}
        self._instance, self._camera = instance, camera
        self._done = threading.Event()

    def run(self) -> None:
        reader, after = DetectionReader(self._instance, self._camera, None), 0
        while not self._done.is_set():
            while (lease := reader.lease_next(after)) is not None:
                with lease:
                    after = lease.sequence
                    self.results[lease.stamp.frame_number] = lease.detections.copy()
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


def iou(a: np.ndarray, b: np.ndarray) -> float:
    left, top = np.maximum(a[:2], b[:2])
    right, bottom = np.minimum(a[2:4], b[2:4])
    common = max(0.0, right - left) * max(0.0, bottom - top)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return float(common / (sum(areas) - common))


@pytest.mark.timeout(400)
def test_footage_gives_the_recorded_decisions(tmp_path: Path) -> None:
    footage, oracle = shared(*FOOTAGE), shared(*ORACLE)
    truth = json.loads(shared(*FOOTAGE_TRUTH).read_text())["detections"]
    events: list[dict[str, Any]] = []
    with running_mosquitto(tmp_path / "broker") as broker:
        client = subscriber(broker.port, events)
        with running_node(
            tmp_path,
            {"hall": {"source": str(footage), "realtime": False, "loop": False}},
            model={"file": str(oracle), "precision": "fp32"},
            detect={"min_score": MIN_SCORE, "classes": ["person"]},
            mqtt={"host": "127.0.0.1", "port": broker.port},
        ) as node:
            recorder = Recorder(node.instance, "hall")
            recorder.start()
            summary = node.finish(within_s=360)
            recorder.stop()
        client.loop_stop()

    camera = summary["cameras"]["hall"]
    assert camera["frames_inferred"] == camera["frames_published"] == len(recorder.results)
    assert camera["frames_inferred"] > 400
    assert camera["frame_age_ms"]["p50"] is None, "the frames have the times of the recording"
    assert camera["total_ms"]["p50"] >= camera["infer_ms"]["p50"] > 0
    assert not any(summary["restarts"].values())

    faults = []
    for number, found in recorder.results.items():
        expected = [row for row in truth[number] if row[4] >= MIN_SCORE]
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
        if len(certain) > len([row for row in truth[number] if row[4] >= MIN_SCORE - 0.02]):
            faults.append((number, "too many", found.tolist()))
    assert not faults, faults[:5]

    kinds = [event["kind"] for event in events]
    assert kinds == ["person_arrived", "person_left"] * 5, kinds
    assert len({event["event_id"] for event in events}) == 10
    arrivals = [e["frame_number"] for e in events if e["kind"] == "person_arrived"]
    visits = [(228, 444), (511, 694), (747, 863), (940, 1182), (1237, 1357)]
    for arrival, (first, last) in zip(arrivals, visits, strict=True):
        assert first <= arrival <= last
