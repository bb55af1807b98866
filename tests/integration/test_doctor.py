"""The doctor's real checks: brokers with logins, and cameras that deliver frames or do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.clips import jpegs, write_clip
from support.http_camera import Request, http_camera
from support.mosquitto import free_port, make_certificates, running_mosquitto
from support.rtsp import rtsp_server
from tridetr.config.load import parse_config
from tridetr.doctor.finding import Finding
from tridetr.doctor.mqtt_broker import check_broker
from tridetr.doctor.streams import check_cameras


def broker(folder: Path, keys: str) -> Finding:
    text = f"cameras: {{hall: {{source: synthetic}}}}\nmqtt: {{host: 127.0.0.1, {keys}}}"
    (found,) = check_broker(parse_config(text, origin=folder / "node.yaml"))
    return found


def cameras(folder: Path, **sources: str) -> dict[str, Finding]:
    lines = [f"  {name}: {{source: '{source}', timeout_s: 2}}" for name, source in sources.items()]
    text = "\n".join(["cameras:", *lines])
    found = check_cameras(parse_config(text, origin=folder / "node.yaml"))
    return {finding.subject.removeprefix("camera "): finding for finding in found}


class TestBroker:
    def test_login_is_tested(self, tmp_path: Path) -> None:
        (tmp_path / "good").write_text("word")
        (tmp_path / "bad").write_text("wr0ng")
        with running_mosquitto(tmp_path / "broker", user=("node", "word")) as server:
            good = broker(tmp_path, f"port: {server.port}, username: node, password_file: good")
            assert (good.level, good.text) == (
                "ok",
                f"127.0.0.1:{server.port}, logged in as node",
            )
            bad = broker(tmp_path, f"port: {server.port}, username: node, password_file: bad")
            assert bad.level == "fault"
            assert "login refused" in bad.text
            assert "wr0ng" not in bad.text
            assert broker(tmp_path, f"port: {server.port}").level == "fault"

    def test_a_port_without_a_broker(self, tmp_path: Path) -> None:
        found = broker(tmp_path, f"port: {free_port()}")
        assert (found.level, "refused" in found.text) == ("fault", True)

    def test_a_tls_port_without_tls(self, tmp_path: Path) -> None:
        made = make_certificates(tmp_path / "tls")
        with http_camera(lambda request: None, (made.certificate, made.key)) as server:
            found = broker(tmp_path, f"port: {server.port}")
            untrusted = broker(tmp_path, f"port: {server.port}, tls: {{}}")
        assert found.remedy == "set mqtt.tls: {}"
        assert "ca_file" in untrusted.remedy


class TestCameras:
    def test_each_stream_is_opened(self, tmp_path: Path) -> None:
        pictures = jpegs(5)

        def picture(request: Request) -> None:
            request.head("image/jpeg", Content_Length=str(len(pictures[0])))
            request.send(pictures[0])

        clip = write_clip(tmp_path / "clip.mp4", 200)
        os.mkfifo(tmp_path / "fifo.ts")
        with http_camera(picture) as camera, rtsp_server(clip) as server:
            found = cameras(
                tmp_path,
                drawn="synthetic",
                http=camera.url(),
                rtsp=server.url,
                file="clip.mp4",
                none="none.mp4",
                gone=f"rtsp://127.0.0.1:{free_port()}/1",
                fifo="fifo.ts",
                usb="/dev/video99",
            )
        levels = {name: finding.level for name, finding in found.items()}
        good = dict.fromkeys(("drawn", "http", "rtsp", "file"), "ok")
        assert levels == good | dict.fromkeys(("none", "gone", "fifo", "usb"), "fault")
        assert "mjpeg 320x240" in found["http"].text
        assert "h264 320x240" in found["rtsp"].text
        assert "fps measured" in found["rtsp"].text
        assert "No such file" in found["none"].text
        assert "FIFO" in found["fifo"].remedy + found["fifo"].text
        assert all(found[name].remedy for name, level in levels.items() if level == "fault")

    def test_the_second_stream_is_opened_too(self, tmp_path: Path) -> None:
        with rtsp_server(write_clip(tmp_path / "clip.mp4", 200)) as server:
            text = f"cameras: {{hall: {{source: {server.url}, view: 'rtsp://127.0.0.1:{free_port()}/1'}}}}"
            config = parse_config(text, origin=tmp_path / "node.yaml")
            source, view = check_cameras(config)
        assert (source.subject, source.level) == ("camera hall", "ok")
        assert (view.subject, view.level) == ("camera hall, view", "fault")
        assert "refused" in view.text

    @pytest.mark.parametrize("code", [401, 404])
    def test_refusals_are_reported(self, tmp_path: Path, code: int) -> None:
        with http_camera(lambda request: request.head(status=code)) as camera:
            found = cameras(tmp_path, hall=camera.url())["hall"]
        assert str(code) in found.text
        assert found.remedy
