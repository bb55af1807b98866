"""Network cameras: real RTSP and HTTP servers that are killed, hung, restarted and damaged."""

from __future__ import annotations

import contextlib
import functools
import http.server
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.capture_rig import FakeController, capturing
from support.clips import jpegs, write_clip
from support.data import FOOTAGE, shared
from support.mjpeg_server import MjpegServer
from support.rtsp import rtsp_server
from support.waiting import slack, wait_for
from tridetr.capture import delivery, publisher
from tridetr.capture.planes import copy_picture
from tridetr.capture.sources.network import NetworkSource
from tridetr.config import CameraSection
from tridetr.shm.boards import CameraState, SentryMode


@contextlib.contextmanager
def mjpeg_server(server: MjpegServer) -> Iterator[MjpegServer]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


class TestRtsp:
    def test_server_is_killed_and_restarted_mid_stream(self, tmp_path: Path) -> None:
        footage = shared(*FOOTAGE)
        with rtsp_server(footage) as server:
            with capturing(tmp_path, server.url, timeout_s=2) as rig:
                first = rig.wait_frames(15)
                live = rig.wait_state(CameraState.LIVE)
                assert (live.width, live.height) == (768, 432)
                assert live.capture_clock == "arrival"

                server.kill()
                killed_s = time.monotonic()
                offline = rig.wait_state(CameraState.OFFLINE, 30)
                assert "127.0.0.1" in offline.message
                assert time.monotonic() - killed_s < slack(3.5)

                server.start()
                assert rig.wait_state(CameraState.LIVE, 30).reconnects >= 1
                again = rig.wait_frames(15)
        numbers = [frame.stamp.frame_number for frame in [*first, *again]]
        assert numbers == sorted(set(numbers)), "frame numbers continue after the reconnect"
        times = [frame.stamp.capture_monotonic_ns for frame in rig.frames]
        assert times == sorted(times)
        # the pictures are those of the footage: each connection starts with the same frame
        same = np.abs(first[0].planes.astype(int) - again[0].planes)
        assert same.mean() < 3

    def test_frames_are_fresh(self, tmp_path: Path) -> None:
        clip = write_clip(
            tmp_path / "clip.mp4", 150, options={"bf": "0", "tune": "zerolatency"}, fps=30
        )
        with rtsp_server(clip) as server, capturing(tmp_path, server.url) as rig:
            rig.wait_frames(60)
        gaps = np.diff([frame.stamp.capture_monotonic_ns for frame in rig.frames[30:]]) / 1e6
        ages = [(f.seen_ns - f.stamp.capture_monotonic_ns) / 1e6 for f in rig.frames[30:]]
        assert np.median(ages) < slack(50), "arrival to reader [ms]"
        assert np.median(gaps) == pytest.approx(33.3, abs=10), "arrival times follow the camera"

    def test_password_is_used_but_never_logged(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        clip = write_clip(tmp_path / "clip.mp4", 60)
        secret = tmp_path / "secret"
        secret.write_text("admin:s3cr3t/word\n")
        options = ("--user", "admin", "--password", "s3cr3t/word")
        with rtsp_server(clip, *options) as server:
            with capturing(tmp_path, server.url) as rig:
                assert "credentials_file" in rig.wait_state(CameraState.OFFLINE).message
            with capturing(tmp_path, server.url, credentials_file=str(secret)) as rig:
                rig.wait_frames(5)
                server.kill()
                message = rig.wait_state(CameraState.OFFLINE, 20).message
        assert "s3cr3t" not in message
        assert "s3cr3t" not in caplog.text

    def test_a_server_that_stops_answering_is_offline(self, tmp_path: Path) -> None:
        footage = shared(*FOOTAGE)
        with rtsp_server(footage) as server:
            with capturing(tmp_path, server.url, timeout_s=1.5) as rig:
                rig.wait_frames(5)
                assert server.process is not None
                server.process.send_signal(signal.SIGSTOP)
                rig.wait_state(CameraState.OFFLINE, slack(8))
                server.process.send_signal(signal.SIGCONT)
                rig.wait_state(CameraState.LIVE, 40)


class TestHttpMjpeg:
    @pytest.mark.parametrize("with_length", [True, False])
    def test_jpegs_pass_through_and_are_fresh(self, tmp_path: Path, with_length: bool) -> None:
        packets = jpegs(20)
        with mjpeg_server(MjpegServer(packets, with_length=with_length)) as server:
            with capturing(tmp_path, server.url) as rig:
                rig.wait_frames(40)
                status = rig.wait_state(CameraState.LIVE)
                wait_for(
                    lambda: abs((rig.status() or status).source_fps - 25) < 5, 30, "measured fps"
                )
        assert status.source_kind == "http"
        lags = []
        for frame in rig.frames[20:]:
            index = packets.index(frame.jpeg)  # exactly what the camera sent
            before = [at for i, at in server.sent if i == index and at <= frame.seen_ns]
            lags.append((frame.stamp.capture_monotonic_ns - before[-1]) / 1e6)
        # without lengths, the end of a picture is known only when the next one starts
        assert np.median(lags) < slack(20 if with_length else 70), "sent to stamped [ms]"
        assert min(lags) >= 0

    def test_killed_and_restarted(self, tmp_path: Path) -> None:
        with mjpeg_server(MjpegServer(jpegs(10))) as server:
            with capturing(tmp_path, server.url, timeout_s=2) as rig:
                rig.wait_frames(10)
                server.stop()
                rig.wait_state(CameraState.OFFLINE, slack(6))
                server.start()
                rig.wait_state(CameraState.LIVE, 30)
                rig.wait_frames(10)

    def test_hung_camera_is_offline_and_recovers(self, tmp_path: Path) -> None:
        with mjpeg_server(MjpegServer(jpegs(10))) as server:
            with capturing(tmp_path, server.url, timeout_s=1) as rig:
                rig.wait_frames(10)
                server.hang.set()
                hung_s = time.monotonic()
                rig.wait_state(CameraState.OFFLINE, 30)
                assert 0.9 < time.monotonic() - hung_s < slack(3)

                def reason() -> str:
                    return rig.wait_state(CameraState.OFFLINE).message

                wait_for(
                    lambda: "no answer" in reason(), slack(5), "the reason of the last attempt"
                )
                beats: set[int] = set()

                def has_beaten() -> bool:
                    status = rig.status()
                    assert status
                    beats.add(status.heartbeat_monotonic_ns)
                    return len(beats) >= 4

                what = "signs of life at more than 1 Hz while the source is away"
                wait_for(has_beaten, slack(4), what)
                server.hang.clear()
                rig.wait_state(CameraState.LIVE, 30)

    def test_garbage_between_pictures(self, tmp_path: Path) -> None:
        packets = jpegs(20)
        packets[5] = np.random.default_rng(0).bytes(3000)
        packets[11] = packets[11][:1500]
        with mjpeg_server(MjpegServer(packets)) as server:
            with capturing(tmp_path, server.url) as rig:
                rig.wait_frames(60)
                assert rig.skipped("corrupt") >= 2
                shown = {packets.index(frame.jpeg) for frame in rig.frames}
                assert {5, 11}.isdisjoint(shown)
                assert len(shown) >= 15

    def test_only_garbage_is_offline(self, tmp_path: Path) -> None:
        good, noise = jpegs(5), np.random.default_rng(0).bytes(3000)
        with mjpeg_server(MjpegServer(good)) as server:
            with capturing(tmp_path, server.url, timeout_s=1) as rig:
                rig.wait_frames(10)
                server.jpegs = [noise]
                rig.wait_state(CameraState.OFFLINE, slack(10))
                server.jpegs = good
                rig.wait_state(CameraState.LIVE, 30)

    def test_a_camera_with_a_password_is_opened_with_its_credentials(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("admin:word")
        with mjpeg_server(MjpegServer(jpegs(5), password="admin:word")) as server:
            with capturing(tmp_path, server.url) as rig:
                assert "credentials_file" in rig.wait_state(CameraState.OFFLINE).message
            with capturing(tmp_path, server.url, credentials_file=str(secret)) as rig:
                rig.wait_frames(5)

    def test_url_without_video(self, tmp_path: Path) -> None:
        with mjpeg_server(MjpegServer([b"<html>log in</html>"])) as server:
            with capturing(tmp_path, server.url, timeout_s=2) as rig:
                rig.wait_state(CameraState.OFFLINE, 30)
                assert not rig.frames


def test_a_file_on_a_web_server_plays_in_real_time(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 90, options={"movflags": "faststart"})
    handler = functools.partial(QuietFiles, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/{clip.name}"
        with capturing(tmp_path, url) as rig:
            frames = rig.wait_frames(60)
            assert rig.skipped("lost") < 10
    finally:
        server.shutdown()
        server.server_close()
    took_s = (frames[-1].seen_ns - frames[0].seen_ns) / 1e9
    played = frames[-1].stamp.frame_number - frames[0].stamp.frame_number
    assert took_s == pytest.approx(played / 30, abs=slack(0.5))


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Tests are quiet."""


def test_unresponsive_server_does_not_delay_shutdown(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        with capturing(tmp_path, f"rtsp://127.0.0.1:{port}/video", timeout_s=60) as rig:
            wait_for(lambda: rig.status(), 20, "it has started")
            wait_for(lambda: "packet-pump" in {t.name for t in threading.enumerate()}, 20)
            rig.finish(within_s=slack(2.0))


def test_slow_machine_drops_frames_but_stays_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*arguments: Any) -> None:
        time.sleep(0.1)  # instead of 0.2 ms: a tenth of the camera's rate
        copy_picture(*arguments)

    monkeypatch.setattr(publisher, "copy_picture", slowly)
    with mjpeg_server(MjpegServer(jpegs(20), fps=50)) as server:
        with capturing(tmp_path, server.url) as rig:
            rig.wait_frames(15)
    ages = [(f.seen_ns - f.stamp.capture_monotonic_ns) / 1e6 for f in rig.frames[5:]]
    assert max(ages) < slack(400), "arrival to reader [ms]"
    lost = rig.skipped("lost")
    numbers = rig.frames[-1].stamp.frame_number
    assert lost >= 2 * len(rig.frames)
    assert lost + len(rig.frames) == pytest.approx(numbers + 1, abs=5)


def test_stale_h264_is_decoded_but_not_shown(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 300, options={"bf": "0", "tune": "zerolatency"})
    with rtsp_server(clip) as server:
        source = NetworkSource(CameraSection(source=server.url), threading.Event())
        try:
            source.open()
            first = wait_for(lambda: source.next(0.2))
            wait_for(lambda: source._pump is not None and len(source._pump.waiting()) >= 20, 30)
            dropped = source.drop_stale()
            assert dropped >= 19
            fresh = wait_for(lambda: source.next(0.5))
        finally:
            source.close()
    assert fresh.number - first.number > dropped
    assert (time.monotonic_ns() - fresh.monotonic_ns) / 1e6 < slack(300)


def test_a_camera_in_standby_whose_pictures_are_all_damaged_is_offline(tmp_path: Path) -> None:
    """Frames that the pace skips are not decoded, so they do not count as good."""
    whole = jpegs(10)
    with mjpeg_server(MjpegServer(whole, fps=20)) as camera:
        with capturing(tmp_path, camera.url, start=False, timeout_s=1) as rig:
            controller = FakeController(rig)
            controller.write(SentryMode.STANDBY)
            rig.start()
            rig.wait_state(CameraState.LIVE)
            camera.jpegs = [jpeg[: len(jpeg) // 2] for jpeg in whole]
            message = rig.wait_state(CameraState.OFFLINE).message
            assert message == "no good frame for 1 s: all pictures are damaged"
            camera.jpegs = whole
            rig.wait_state(CameraState.LIVE)
            controller.close()


@pytest.mark.parametrize(
    ("unknown_s", "damaged", "reason"),
    [(0.1, 0, "a picture comes only every 0."), (5, 3, "most pictures are damaged")],
)
def test_a_live_camera_with_too_few_good_pictures_has_a_lasting_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unknown_s: float,
    damaged: int,
    reason: str,
) -> None:
    monkeypatch.setattr(delivery, "_WINDOW_NS", 400_000_000)
    monkeypatch.setattr(delivery, "_CALM_NS", 400_000_000)
    whole = jpegs(4)
    cut = [jpeg[: len(jpeg) // 2] for jpeg in whole]
    camera = MjpegServer(whole[:1] + cut[:damaged], fps=20 if damaged else 8)
    with mjpeg_server(camera):
        sentry = {"unknown_s": unknown_s}
        with capturing(tmp_path, camera.url, timeout_s=4, sentry=sentry) as rig:
            wait_for(lambda: reason in rig.wait_state(CameraState.LIVE).message)
            camera.jpegs, camera.fps = whole, 30
            wait_for(lambda: rig.wait_state(CameraState.LIVE).message == "")
