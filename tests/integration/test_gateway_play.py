"""HTTP streams: the camera's own video as MP4, byte for byte, and MJPEG for old clients."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import io
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from support.gateway import Gateway, cameras
from support.video_camera import VideoCamera, playing
from support.waiting import wait_for
from tridetr.codec_string import units
from tridetr.config import Config
from tridetr.gateway.connection import Limits
from tridetr.gateway.viewer_session import Viewer
from tridetr.served_model import Labels

_HEVC_PARAMETER_SETS = (32, 33, 34)


def checksums(packets: list[bytes]) -> list[list[str]]:
    return [[hashlib.sha256(unit).hexdigest() for unit in units(data)] for data in packets]


def annexb(packet: bytes) -> bytes:
    """Return a packet of an MP4 with start codes instead of length prefixes."""
    data, at = b"", 0
    while at < len(packet):
        size = int.from_bytes(packet[at : at + 4], "big")
        data += b"\0\0\0\1" + packet[at + 4 : at + 4 + size]
        at += 4 + size
    return data


def coded(packet: bytes, header: bytes) -> bytes:
    """Return an H.265 packet without its parameter sets, which are in the header of an MP4 with `hvc1`."""
    kept = [u for u in units(packet) if not (u[0] >> 1 in _HEVC_PARAMETER_SETS and u in header)]
    return b"".join(b"\0\0\0\1" + unit for unit in kept)


def take(gateway: Gateway, path: str, size: int, headers: dict[str, str] | None = None) -> bytes:
    """Return the first bytes of an endless response."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        assert response.status == 200, response.read(1000)
        data = b""
        while len(data) < size:
            data += response.read1(65_536)
        return data
    finally:
        connection.close()


@contextlib.contextmanager
def video(
    tmp_path: Path, encoder: str = "libx264", live_s: float = 60, **options: Any
) -> Iterator[tuple[VideoCamera, Config]]:
    with cameras(tmp_path, "hall", live_s=live_s) as (config, fakes):
        camera = VideoCamera(config.instance, fakes["hall"], encoder=encoder, **options)
        try:
            yield camera, config
        finally:
            camera.close()


@pytest.mark.parametrize(("encoder", "b_frames"), [("libx264", 0), ("libx264", 2), ("libx265", 0)])
def test_pyav_reads_every_packet_as_the_camera_sent_it(
    tmp_path: Path, encoder: str, b_frames: int
) -> None:
    options = {"b_frames": b_frames}
    with video(tmp_path, encoder, **options) as (camera, config), Gateway(config) as gateway:
        for _ in range(15):
            camera.frame()
        with playing(camera, fps=20, every=0):
            data = take(gateway, "/stream/hall.mp4", 30_000)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (640, 480)
        header = bytes(stream.codec_context.extradata or b"")
        found = [packet for packet in container.demux(stream) if packet.size]
    whole = [bytes(packet) for packet in found][:-1]  # the last one is truncated by this test
    assert len(whole) > 20
    came = checksums([annexb(packet) for packet in whole])
    if encoder == "libx265":
        sent = checksums([coded(packet.data, header) for packet in camera.sent])
    else:
        sent = checksums([packet.data for packet in camera.sent])
    start = sent.index(came[0])
    assert came == sent[start : start + len(came)]
    times = [packet.dts or 0 for packet in found]
    assert times == sorted(set(times))
    with av.open(io.BytesIO(data)) as container:
        shown = [frame.pts or 0 for frame in container.decode(video=0)]
    assert len(shown) > 15
    assert shown == sorted(shown)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_ffmpeg_plays_it_with_the_token_as_password(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("open-sesame-and-more")
    secret.chmod(0o600)
    with cameras(tmp_path, "hall", gateway={"token_file": str(secret)}) as (config, fakes):
        camera = VideoCamera(config.instance, fakes["hall"])
        try:
            with Gateway(config) as gateway:
                camera.frame()
                with playing(camera, fps=20, every=0):
                    refused = gateway.ask("/stream/hall.mp4")
                    assert refused.status == 401
                    assert "Basic" in refused.headers["www-authenticate"]
                    url = (
                        f"http://any:open-sesame-and-more@127.0.0.1:{gateway.port}/stream/hall.mp4"
                    )
                    ffmpeg = subprocess.run(
                        ["ffmpeg", "-v", "error", "-i", url, "-frames:v", "20", "-f", "framemd5", "-"],
                        capture_output=True, text=True, timeout=60, check=False,
                    )  # fmt: skip
        finally:
            camera.close()
    assert ffmpeg.stderr == ""
    frames = [line for line in ffmpeg.stdout.splitlines() if not line.startswith("#")]
    assert len(frames) == 20
    assert len({line.split(",")[-1] for line in frames}) == 20


def test_silent_player_is_served_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with video(tmp_path) as (camera, config):
        limits = Limits(connections=20, silence_s=0.5, stall_s=2)
        with Gateway(config, limits) as gateway, playing(camera, fps=20, every=0):
            connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
            connection.request("GET", "/stream/hall.mp4")
            response = connection.getresponse()
            until = time.monotonic() + 3
            while time.monotonic() < until:
                assert response.read1(65_536)
            before = open_rings()
            connection.close()
            wait_for(lambda: open_rings() < before, 20, "the reader to be closed")


def open_rings() -> int:
    """Return how many packet rings this process has mapped."""
    return sum("-packets-" in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_another_resolution_ends_the_stream(tmp_path: Path) -> None:
    with video(tmp_path) as (camera, config), Gateway(config) as gateway:
        camera.frame()
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
        connection.request("GET", "/stream/hall.mp4")
        response = connection.getresponse()
        response.read1(1)
        camera.start(320, 240)
        camera.frame()
        response.read()  # read to the end
        data = take(gateway, "/stream/hall.mp4", 500)
        connection.close()
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.video[0].width == 320


def test_stream_ends_if_its_sender_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise its client would wait indefinitely for pictures."""

    async def broken(*_: object) -> None:
        raise ValueError("nonsense")

    monkeypatch.setattr(Viewer, "pump", broken)
    with cameras(tmp_path, "hall") as (config, _), Gateway(config) as gateway:
        answer = gateway.ask("/stream/hall.mjpeg")
        assert (answer.status, answer.body) == (200, b"")
    assert "nonsense" in caplog.text


def test_ring_checks_continue_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks = []

    def refresh(_: Labels) -> None:
        looks.append(1)
        if len(looks) > 1:  # not while the gateway starts
            raise ValueError("nonsense")

    monkeypatch.setattr(Labels, "refresh", refresh)
    with cameras(tmp_path, "hall") as (config, _), Gateway(config):
        wait_for(lambda: len(looks) > 3)
    assert caplog.text.count("checking the rings and the broker failed") == 1


def test_mjpeg_for_old_clients(tmp_path: Path) -> None:
    with video(tmp_path) as (camera, config), Gateway(config) as gateway:
        camera.frame()
        with playing(camera, fps=20, every=0):
            data = take(gateway, "/stream/hall.mjpeg?size=small", 60_000)
    with av.open(io.BytesIO(data), format="mpjpeg") as container:
        frames = list(container.decode(video=0))
    assert len(frames) > 3
    assert (frames[0].width, frames[0].height) == (640, 480)


def test_head_ends_with_the_headers_and_is_no_viewer(tmp_path: Path) -> None:
    """The stream was sent into nowhere, and took a viewer's place, until the client closed the connection."""
    with cameras(tmp_path, "hall", gateway={"max_viewers": 1}) as (config, fakes):
        camera = VideoCamera(config.instance, fakes["hall"])
        with (
            contextlib.closing(camera),
            Gateway(config) as gateway,
            contextlib.closing(
                http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
            ) as connection,
            playing(camera, fps=20, every=0),
        ):
            for kind, content in (("mjpeg", "multipart/x-mixed-replace"), ("mp4", "video/mp4")):
                connection.request("HEAD", f"/stream/hall.{kind}")
                response = connection.getresponse()
                assert response.status == 200
                assert response.headers["Content-Type"].startswith(content)
                response.read()
                assert take(gateway, "/stream/hall.mjpeg", 1000)
                wait_for(lambda: gateway.ask("/stream/hall.mp4", "HEAD").status == 200, 20)
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b"ok\n"


def test_old_video_is_not_played_as_if_it_were_live(tmp_path: Path) -> None:
    """A player got the last seconds before the camera went offline, and then nothing."""
    with video(tmp_path, live_s=1) as (camera, config), Gateway(config) as gateway:
        with playing(camera, fps=20, every=0):
            take(gateway, "/stream/hall.mp4", 10_000)
        wait_for(lambda: gateway.ask("/readyz").json()["cameras"]["hall"]["frame_age_s"] > 1)
        answer = gateway.ask("/stream/hall.mp4")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert "camera hall is not live" in answer.json()["error"]
        with playing(camera, fps=20, every=0):
            take(gateway, "/stream/hall.mp4", 10_000)


def test_key_frame_may_be_old_if_the_video_is_live(tmp_path: Path) -> None:
    with video(tmp_path, live_s=1, group=10_000) as (camera, config), Gateway(config) as gateway:
        with playing(camera, fps=20, every=0):
            began = time.monotonic()
            wait_for(lambda: len(camera.sent) > 1 and time.monotonic() - began > 1.5)
            data = take(gateway, "/stream/hall.mp4", 10_000)
    assert [packet.is_key for packet in camera.sent].count(True) == 1
    with av.open(io.BytesIO(data)) as container:
        assert next(container.demux(video=0)).is_keyframe


def test_unplayable_video_is_refused(tmp_path: Path) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        assert gateway.ask("/stream/nowhere.mp4").status == 404
        assert gateway.ask("/stream/nowhere.mjpeg").status == 404
        assert gateway.ask("/stream/hall.mjpeg?size=huge").status == 400
        answer = gateway.ask("/stream/hall.mp4")
        assert answer.status == 503
        assert "no key frame" in answer.json()["error"]
        del fakes


def test_basic_is_base64_of_any_user_and_the_token(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("open-sesame-and-more")
    secret.chmod(0o600)
    gateway_options = {"token_file": str(secret)}
    with cameras(tmp_path, "hall", gateway=gateway_options, live_s=60) as (config, fakes):
        fakes["hall"].frame()
        word = base64.b64encode(b"me:open-sesame-and-more").decode()
        with Gateway(config) as gateway:
            data = take(gateway, "/stream/hall.mjpeg", 100, {"Authorization": f"Basic {word}"})
            assert data.startswith(b"--tridetr")
            assert (
                gateway.ask("/api/cameras", headers={"Authorization": f"Basic {word}"}).status
                == 401
            )
