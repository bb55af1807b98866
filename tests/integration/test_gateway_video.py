"""The camera's own video over the WebSocket: from a key frame on, unchanged, at the viewer's pace."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.gateway import Gateway, Watcher, cameras
from support.video_camera import VideoCamera
from tridetr.gateway import video_track
from tridetr.gateway.video_track import video_facts


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[tuple[VideoCamera, Gateway]]:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        camera = VideoCamera(config.instance, fakes["hall"])
        try:
            yield camera, gateway
        finally:
            camera.close()


def receive(socket: Watcher, kind: str, count: int = 1) -> list[tuple[dict[str, Any], bytes]]:
    found: list[tuple[dict[str, Any], bytes]] = []
    while len(found) < count:
        found.append(socket.until(kind))
    return found


def test_hello_and_first_key_frame_contain_the_decoder_config(
    hall: tuple[VideoCamera, Gateway],
) -> None:
    camera, gateway = hall
    for _ in range(13):
        camera.frame()
    with gateway.watch("hall") as socket:
        ((hello, _),) = receive(socket, "hello")
        assert hello["video"] == {
            "codec": camera.info.codec_string,
            "description": None,
            "width": 640,
            "height": 480,
            "rotation": 0,
            "reorder": 0,
        }
        socket.send(type="view", video=True)
        found = receive(socket, "video", 3)
        camera.frame()
        found += receive(socket, "video")
    assert [header["key"] for header, _ in found] == [True, False, False, False]
    assert found[0][0]["config"] == hello["video"]
    assert "config" not in found[1][0]
    # From the newest key frame on, byte for byte, with the times of the pictures.
    assert [data for _, data in found] == [sent.data for sent in camera.sent[10:]]
    times = [header["capture_unix_ms"] for header, _ in found]
    assert times == [round(sent.unix_ns / 1e6, 3) for sent in camera.sent[10:]]


def test_pictures_and_video_exclude_each_other(hall: tuple[VideoCamera, Gateway]) -> None:
    camera, gateway = hall
    camera.frame()
    with gateway.watch("hall") as socket:
        receive(socket, "frame")
        socket.send(type="view", video=True)
        receive(socket, "video")
        for _ in range(5):
            camera.frame()
        kinds: list[str] = []
        while kinds.count("video") < 5:
            kinds.append(socket.next()[0]["type"])
        assert "frame" not in kinds
        socket.send(type="view", video=False)
        camera.frame()
        receive(socket, "frame")


def test_new_parameters_arrive_with_their_key_frame(hall: tuple[VideoCamera, Gateway]) -> None:
    camera, gateway = hall
    camera.frame()
    with gateway.watch("hall") as socket:
        socket.send(type="view", video=True)
        receive(socket, "video")
        camera.start(320, 240)
        camera.frame()
        ((header, _),) = receive(socket, "video")
        assert header["key"]
        assert (header["config"]["width"], header["config"]["height"]) == (320, 240)
        ((stream, _),) = receive(socket, "stream")
        assert stream["video"]["width"] in (320, 640)


def test_length_prefixed_packets_have_a_description(hall: tuple[VideoCamera, Gateway]) -> None:
    camera, gateway = hall
    avcc = bytes.fromhex("0142c01effe10004 6742c01e 01000468ce3c80".replace(" ", ""))
    camera.writer.start_stream(replace(camera.info, extradata=avcc))
    camera.frame()
    with gateway.watch("hall") as socket:
        ((hello, _),) = receive(socket, "hello")
        assert base64.b64decode(hello["video"]["description"]) == avcc


def test_viewer_without_acknowledgements_continues_at_a_key_frame(
    hall: tuple[VideoCamera, Gateway],
) -> None:
    camera, gateway = hall
    camera.frame()
    with gateway.watch("hall") as socket:
        socket.send(type="view", video=True, window=1)
        receive(socket, "video")
        for _ in range(95):
            camera.frame()
        found = receive(socket, "video", 23)  # as many as may be in flight
        socket.send(type="ping", t=1)
        socket.until("pong")
        assert [header["type"] for header, _ in socket.seen].count("video") == 24
        socket.send(type="ack", packets=24)
        found += receive(socket, "video", 3)
    packets = [header["packet"] for header, _ in found]
    assert packets[:23] == list(range(2, 25))
    assert packets[23:] == [91, 92, 93]
    assert [header["key"] for header, _ in found[23:]] == [True, False, False]
    assert found[23][0]["restart"]


def test_viewer_that_does_not_catch_up_waits_for_a_newer_key_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its pictures would get older and older until there is one."""
    monkeypatch.setattr(video_track, "_CATCH_UP_S", 0.0)
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        camera = VideoCamera(config.instance, fakes["hall"], group=60)
        try:
            camera.frame()
            with gateway.watch("hall") as socket:
                socket.send(type="view", video=True, window=1)
                receive(socket, "video")
                for _ in range(55):
                    camera.frame()
                receive(socket, "video", 23)  # as many as may be in flight
                socket.send(type="ack", packets=24)
                receive(socket, "video")  # the one that shows that it is behind
                socket.send(type="ack", packets=25)
                socket.send(type="ping", t=1)
                socket.until("pong")
                for _ in range(10):
                    camera.frame()
                found = receive(socket, "video", 3)
        finally:
            camera.close()
    assert [header["packet"] for header, _ in found] == [61, 62, 63]
    assert [header["key"] for header, _ in found] == [True, False, False]
    assert found[0][0]["restart"]


def test_viewer_that_acknowledges_late_is_sent_nothing_more(
    hall: tuple[VideoCamera, Gateway],
) -> None:
    camera, gateway = hall
    camera.frame()
    with gateway.watch("hall") as socket:
        socket.send(type="view", video=True, window=8)
        receive(socket, "video")
        time.sleep(1.1)  # longer than packets may take
        camera.frame()
        socket.send(type="ping", t=1)
        socket.until("pong")
        assert [header["type"] for header, _ in socket.seen].count("video") == 1
        socket.send(type="ack", packets=1)
        ((header, _),) = receive(socket, "video")
    assert header["packet"] == 2


def test_a_camera_without_video_offers_none(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        fakes["hall"].frame()
        with gateway.watch("hall") as socket:
            ((hello, _),) = receive(socket, "hello")
            assert hello["video"] is None
            camera = VideoCamera(config.instance, fakes["hall"])
            camera.frame()

            socket.until("stream", video=hello["video"])
            socket.until("stream", video=video_facts(camera.info))
            camera.close()


def test_nothing_is_encoded_for_viewers_of_video(hall: tuple[VideoCamera, Gateway]) -> None:
    camera, gateway = hall
    camera.frame()
    with gateway.watch("hall") as socket:
        socket.send(type="view", video=True)
        receive(socket, "video")
        before = encoded(gateway)
        for _ in range(20):
            camera.frame()
            time.sleep(0.02)
        receive(socket, "video", 20)
        assert encoded(gateway) == before


def encoded(gateway: Gateway) -> float:
    text = gateway.ask("/metrics").body.decode()
    lines = [line for line in text.splitlines() if line.startswith("tridetr_frames_encoded_total")]
    return sum(float(line.split()[-1]) for line in lines)
