"""The WebSocket of a real gateway with real rings: frames, detections, states and commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from websockets.exceptions import InvalidStatus

from support.gateway import GROUND, Gateway, cameras
from support.waiting import slack, wait_for
from tridetr.shm.boards import CameraState, SentryState
from tridetr.shm.frames import FrameWriter
from tridetr.telemetry import metrics


def encoded(camera: str) -> float:
    return float(metrics.FRAMES_ENCODED.labels(camera)._value.get())


def test_first_messages_and_their_contents(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        camera = fakes["hall"]
        camera.report(SentryState.TRACKING)
        sequence = camera.frame()
        assert sequence is not None
        camera.result(sequence)
        with gateway.watch("hall") as viewer:
            hello, image = viewer.until("hello")
            assert (hello["camera"], hello["login"], image) == ("hall", False, b"")
            assert abs(hello["server_unix_ms"] - time.time() * 1000) < 2000
            state, _ = viewer.until("state")
            assert (state["state"], state["mode"]) == ("tracking", "standby")
            found, image = viewer.until("detections")
            assert image == b""
            assert (found["sequence"], found["frame_number"]) == (sequence, 1)
            assert found["boxes"][0]["label"] == "person"
            assert tuple(found["boxes"][0]["xyxy"]) == camera.truth(1)
            assert found["boxes"][0]["score"] == pytest.approx(0.9)
            assert (found["infer_ms"], found["total_ms"]) == (40.0, 50.0)
            frame, image = viewer.until("frame")
            assert (frame["sequence"], frame["frame_number"], frame["width"]) == (sequence, 1, 640)
            assert frame["capture_unix_ms"] == pytest.approx(
                camera.stamps[sequence][2] / 1e6, abs=0.01
            )
            picture = simplejpeg.decode_jpeg(image).astype(int)
            x1, y1, x2, y2 = camera.truth(1)
            assert np.abs(picture[(y1 + y2) // 2, (x1 + x2) // 2] - (255, 176, 133)).max() < 25
            assert np.abs(picture[50, 600] - GROUND[0]).max() < 12


def test_frames_and_states_follow(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        camera = fakes["hall"]
        camera.report(SentryState.STANDBY)
        with gateway.watch("hall") as viewer:
            viewer.until("state", state="standby")
            for _ in range(5):
                sequence = camera.frame()
                assert sequence is not None
                viewer.until("frame", sequence=sequence)
                camera.result(sequence)
                viewer.until("detections", sequence=sequence)
            camera.report(SentryState.VALIDATION)
            viewer.until("state", state="validation")
            camera.camera_state, camera.message = CameraState.OFFLINE, "connection refused"
            camera.report()
            status, _ = viewer.until("status", state="offline")
            assert status["message"] == "connection refused"


def test_dead_controller_and_dead_capture_are_reported(tmp_path: Path) -> None:
    """The boards of dead processes stay in shared memory: their last contents must not count as current."""
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        fakes["hall"].report(SentryState.TRACKING)
        with gateway.watch("hall") as viewer:
            viewer.until("status", state="live")
            viewer.until("state", state="tracking")

            def last(kind: str) -> dict[str, Any]:
                return next(header for header, _ in reversed(viewer.seen) if header["type"] == kind)

            begun = time.monotonic()
            while last("state")["state"] != "unknown" or last("status")["state"] != "offline":
                viewer.next()
            assert 2.5 < time.monotonic() - begun < slack(5.5)
            assert last("state")["reason"] == "no controller"
            assert "has stopped reporting" in last("status")["message"]


def test_late_viewer_of_a_silent_camera_sees_the_last_picture(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        sequence = fakes["hall"].frame()
        with gateway.watch("hall") as first, gateway.watch("hall") as second:
            first.until("frame", sequence=sequence)
            second.until("frame", sequence=sequence)
            with gateway.watch("hall") as third:
                third.until("frame", sequence=sequence)


def test_each_frame_is_encoded_once_and_only_for_viewers(tmp_path: Path) -> None:
    with cameras(tmp_path, "once") as (config, fakes), Gateway(config) as gateway:
        before = encoded("once")
        for _ in range(10):
            fakes["once"].frame()
        assert encoded("once") == before
        viewers = [gateway.watch("once") for _ in range(5)]
        sequences = []
        for _ in range(4):
            sequences.append(fakes["once"].frame())
            for viewer in viewers:
                viewer.until("frame", sequence=sequences[-1])
        frames = [{h["sequence"] for h, _ in v.seen if h["type"] == "frame"} for v in viewers]
        assert encoded("once") - before == len(set().union(*frames))
        for viewer in viewers:
            viewer.socket.close()
        wait_for(lambda: gateway.ask("/api/cameras").json()["cameras"][0]["viewers"] == 0)
        before = encoded("once")
        for _ in range(10):
            fakes["once"].frame()
        gateway.ask("/healthz")
        assert encoded("once") == before


def test_camera_jpeg_passes_through(tmp_path: Path) -> None:
    own = simplejpeg.encode_jpeg(np.full((480, 640, 3), 99, np.uint8), colorsubsampling="422")
    with cameras(tmp_path, "usb", jpeg_capacity=100_000) as (config, fakes):
        with Gateway(config) as gateway, gateway.watch("usb") as viewer:
            before = encoded("usb")
            sequence = fakes["usb"].frame(jpeg=own)
            header, image = viewer.until("frame", sequence=sequence)
            assert image == own
            assert header["original"] is True
            assert encoded("usb") == before


def test_a_viewer_gets_the_size_and_boxes_it_asks_for(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall", width=1280, height=720) as (config, fakes):
        with Gateway(config) as gateway, gateway.watch("hall") as viewer:
            camera = fakes["hall"]
            sequence = camera.frame()
            header, image = viewer.until("frame", sequence=sequence)
            assert (header["image_width"], header["width"]) == (1280, 1280)
            # The same frame again in the other size, though there is no new one.
            viewer.send(type="view", size="small")
            header, image = viewer.until("frame", sequence=sequence)
            assert (header["image_width"], header["image_height"], header["width"]) == (
                640,
                360,
                1280,
            )
            assert simplejpeg.decode_jpeg_header(image)[:2] == (360, 640)
            viewer.send(type="view", size="small", paused=True)
            camera.report(SentryState.TRACKING)
            viewer.until("state", state="tracking")
            unseen = camera.frame()
            assert unseen is not None
            camera.result(unseen)
            viewer.until("detections", sequence=unseen)
            viewer.send(type="view", size="full")
            viewer.until("frame", sequence=unseen)
            frames = [h["sequence"] for h, _ in viewer.seen if h["type"] == "frame"]
            assert frames == [sequence, sequence, unseen]


def test_first_picture_in_the_wanted_size(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall", width=1280, height=720) as (config, fakes):
        with Gateway(config) as gateway:
            fakes["hall"].frame()
            with gateway.watch("hall?size=small") as viewer:
                header, _ = viewer.until("frame")
                assert (header["image_width"], header["width"]) == (640, 1280)
            with pytest.raises(InvalidStatus) as refused:
                gateway.watch("hall?size=huge")
            assert refused.value.response.status_code == 400


def test_window_holds_frames_back_until_they_are_acknowledged(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        camera = fakes["hall"]
        camera.report()
        with gateway.watch("hall") as viewer, gateway.watch("hall") as other:
            viewer.until("hello")
            viewer.send(type="view", size="full", window=1)
            viewer.send(type="ping", t=1)
            viewer.until("pong")
            first = camera.frame()
            viewer.until("frame", sequence=first)
            for _ in range(5):
                last = camera.frame()
                assert last is not None
                camera.result(last)
                viewer.until("detections", sequence=last)  # facts are not held back
            other.until("frame", sequence=last)  # pictures are made less often
            viewer.send(type="ack", frames=1)
            header, _ = viewer.until("frame")
            assert header["sequence"] == last  # the newest, not the next


def test_ping_measures_the_clock(tmp_path: Path) -> None:
    with (
        cameras(tmp_path, "hall") as (config, _),
        Gateway(config) as gateway,
        gateway.watch("hall") as viewer,
    ):
        viewer.send(type="ping", t=123.25)
        pong, _ = viewer.until("pong")
        assert pong["t"] == 123.25
        assert abs(pong["server_unix_ms"] - time.time() * 1000) < 1000


def test_camera_that_changes_its_size_and_restarts(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        camera = fakes["hall"]
        with gateway.watch("hall") as viewer:
            viewer.until("frame", sequence=camera.frame())
            camera.frames.resize(800, 608)
            camera.width, camera.height = 800, 608
            header, _ = viewer.until("frame", sequence=camera.frame())
            assert (header["width"], header["height"]) == (800, 608)
            camera.frames.close()
            camera.frames = FrameWriter(config.instance, "hall", width=800, height=608)
            viewer.until("frame", sequence=camera.frame())


def test_rate_is_limited(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall", gateway={"max_fps": 5.0}) as (config, fakes):
        with Gateway(config) as gateway, gateway.watch("hall") as viewer:
            viewer.until("hello")
            begun = time.monotonic()
            while time.monotonic() - begun < 2:
                fakes["hall"].frame()
                time.sleep(0.01)
            last = fakes["hall"].frame()
            viewer.until("frame", sequence=last)
            frames = [h for h, _ in viewer.seen if h["type"] == "frame"]
            assert len(frames) <= 5 * (time.monotonic() - begun) + 2


def test_invalid_values_in_a_result_are_not_forwarded(tmp_path: Path) -> None:
    """A faulty detector may write anything: there must be no NaN in JSON and no box outside of the picture."""
    nan, infinity = float("nan"), float("inf")
    with cameras(tmp_path, "hall", live_s=60) as (config, fakes), Gateway(config) as gateway:
        with gateway.watch("hall") as viewer:
            sequence = fakes["hall"].frame()
            assert sequence is not None
            fakes["hall"].result(
                sequence,
                (nan, 0, 10, 10, 0.5, 1, 0),
                (0, 0, 10, infinity, 0.5, 1, 0),
                (0, 0, 10, 10, nan, 1, 0),
                (-1e38, -5, 1e38, 1e38, 0.5, 65535, 7),
            )
            header, _ = viewer.until("detections", sequence=sequence)
            assert [box["xyxy"] for box in header["boxes"]][1:] == [[0, 0, 640, 480]]
            assert header["boxes"][1]["label"] == "class 65535"
            assert gateway.ask("/snapshot/hall.jpg?boxes=1").status == 200


def test_the_process_serves_all_metrics_and_ends_on_sigterm(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes):
        file = tmp_path / "config.yaml"
        file.write_text(
            json.dumps(
                {
                    "instance": config.instance,
                    "cameras": {"hall": {"source": "synthetic"}},
                    "gateway": {"port": 0},
                    "run_dir": str(config.run_dir),
                    "state_dir": str(config.state_dir),
                }
            )
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "tridetr", "serve", "--config", str(file)],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            address = config.run_dir / "gateway.json"
            wait_for(address.exists, 60)
            gateway = Gateway(config, url=json.loads(address.read_text())["url"].rstrip("/"))
            fakes["hall"].play()
            with gateway.watch("hall") as viewer:
                for _ in range(3):
                    viewer.until("frame")
                text = gateway.ask("/metrics").body.decode()
                assert 'tridetr_viewers{camera="hall"} 1.0' in text
                sent = next(
                    line
                    for line in text.splitlines()
                    if line.startswith("tridetr_viewer_frames_total")
                )
                assert float(sent.split()[-1]) >= 3
                process.terminate()
                assert process.wait(60) == 0
                assert not address.exists()
        finally:
            process.kill()
            process.wait()
