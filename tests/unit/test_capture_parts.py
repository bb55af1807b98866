"""The small pure parts of capture: frozen pictures, backoff, log limits, messages, credentials."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext

from tridetr.capture.frozen import FrozenDetector
from tridetr.capture.publisher import jpeg_capacity
from tridetr.capture.reconnect import ReconnectDelays
from tridetr.capture.sources.av import explain
from tridetr.capture.sources.base import (
    LoginRefusedError,
    LoginTakenError,
    NoPictureYetError,
    Plane,
)
from tridetr.capture.sources.select import make_source
from tridetr.capture.status import shorten
from tridetr.config import CameraSection
from tridetr.config.secrets import camera_credentials
from tridetr.config.source import CameraSource, shown_url
from tridetr.errors import ConfigError, SourceError
from tridetr.telemetry import logs
from tridetr.telemetry.logs import Limiter, TracebackFilter

SECOND = 1_000_000_000


def rows_of(luma: Plane) -> Callable[[int], Plane]:
    return lambda step: luma[::step]


class TestFrozen:
    def test_an_identical_picture_is_frozen_until_it_changes(self) -> None:
        detector = FrozenDetector(frozen_s=3.0)
        picture = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
        step = SECOND // 30
        states = [detector.judge(rows_of(picture), n * step) for n in range(30 * 4)]
        first = states.index(True)
        assert 3.0 <= first / 30 <= 3.6
        assert all(states[first:])
        changed = picture.copy()
        changed[8, 3] ^= 1  # one pixel of noise in a row that is checked
        assert not detector.judge(rows_of(changed), 120 * step)

    def test_noise_is_never_frozen(self) -> None:
        detector = FrozenDetector(frozen_s=1.0)
        rng = np.random.default_rng(0)
        for n in range(300):
            noisy = rng.integers(0, 3, (64, 64), dtype=np.uint8)
            assert not detector.judge(rows_of(noisy), n * SECOND // 30)

    def test_another_size_is_a_change(self) -> None:
        detector = FrozenDetector(frozen_s=1.0)
        grey = np.zeros((64, 64), np.uint8)
        detector.judge(rows_of(grey), 0)
        assert not detector.judge(rows_of(np.zeros((32, 32), np.uint8)), 2 * SECOND)

    def test_a_file_that_is_reopened_starts_again(self) -> None:
        detector = FrozenDetector(frozen_s=1.0, may_repeat=True)
        grey = np.zeros((64, 64), np.uint8)
        detector.judge(rows_of(grey), 0)
        assert detector.judge(rows_of(grey), 2 * SECOND)
        detector.reopened()
        assert not detector.judge(rows_of(grey), 3 * SECOND)

    def test_a_hung_camera_that_reconnects_again_and_again_stays_frozen(self) -> None:
        detector = FrozenDetector(frozen_s=5.0)
        rng = np.random.default_rng(0)
        picture = rng.integers(0, 256, (64, 64), dtype=np.uint8)
        states = []
        for second in range(20):
            if second % 3 == 0:
                detector.reopened()
            states.append(detector.judge(rows_of(picture), second * SECOND))
        assert states == [False] * 5 + [True] * 15
        new = rng.integers(0, 256, (64, 64), dtype=np.uint8)
        assert not detector.judge(rows_of(new), 20 * SECOND)

    def test_the_sample_does_not_reference_a_reused_buffer(self) -> None:
        detector = FrozenDetector(frozen_s=1.0)
        buffer = np.zeros((64, 64), np.uint8)
        detector.judge(rows_of(buffer), 0)
        buffer[:] = 5
        assert not detector.judge(rows_of(buffer), 2 * SECOND)

    def test_pictures_that_return_with_each_group_are_frozen_until_new_ones_come(self) -> None:
        detector = FrozenDetector(frozen_s=5.0)
        rng = np.random.default_rng(0)
        group = rng.integers(0, 256, (20, 64, 64), dtype=np.uint8)
        step = SECOND // 10
        states = [detector.judge(rows_of(group[n % 20]), n * step) for n in range(300)]
        first = states.index(True)
        assert 50 <= first <= 80  # ten pictures are checked before the first returns
        assert all(states[first:])
        for n in range(
            300, 340
        ):  # new to the detector, like an encoder that varies slightly, but one only
            picture = rng.integers(0, 256, (64, 64), dtype=np.uint8) if n == 310 else group[n % 20]
            assert detector.judge(rows_of(picture), n * step)
        live = [
            detector.judge(rows_of(rng.integers(0, 256, (64, 64), dtype=np.uint8)), n * step)
            for n in range(340, 400)
        ]
        assert live[0]
        assert 15 <= live.index(False) <= 25
        assert not any(live[25:])

    def test_a_hung_camera_whose_encoder_still_runs_is_frozen(self) -> None:
        rng = np.random.default_rng(0)
        cells = rng.integers(30, 220, (18, 32), dtype=np.uint8)
        picture = np.kron(cells, np.full((10, 10), 1, np.uint8)) + rng.integers(
            0, 8, (180, 320), dtype=np.uint8
        )
        stream = av.CodecContext.create("libx264", "w")
        assert isinstance(stream, VideoCodecContext)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        stream.time_base = Fraction(1, 10)
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "26", "g": "20"}
        decoder = av.CodecContext.create("h264", "r")
        assert isinstance(decoder, VideoCodecContext)
        frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p")
        detector = FrozenDetector(frozen_s=10.0)
        states, pictures = [], set()
        for n in range(400):
            frame.pts = n
            for packet in stream.encode(frame):
                for decoded in decoder.decode(packet):
                    luma = decoded.to_ndarray()[:180].astype(np.uint8)
                    pictures.add(luma.tobytes())
                    states.append(detector.judge(rows_of(luma), n * SECOND // 10))
        assert len(pictures) > 5  # not identical
        assert states[-1]

    def test_a_clock_in_the_margin_does_not_hide_a_frozen_picture(self) -> None:
        detector = FrozenDetector(frozen_s=3.0)
        picture = np.random.default_rng(0).integers(0, 256, (360, 640), dtype=np.uint8)
        for n in range(10):
            picture[8:24, 8:200] = n
            state = detector.judge(rows_of(picture), n * SECOND)
        assert state

    def test_a_file_in_a_loop_may_repeat_its_pictures(self) -> None:
        detector = FrozenDetector(frozen_s=3.0, may_repeat=True)
        pictures = np.random.default_rng(0).integers(0, 256, (4, 64, 64), dtype=np.uint8)
        assert not any(detector.judge(rows_of(pictures[n % 4]), n * SECOND) for n in range(60))


def test_limiter_counts_suppressed_lines() -> None:
    limiter = Limiter(10.0)
    lines = [(s, limiter.allow(float(s))) for s in range(35)]
    assert [(s, kept) for s, kept in lines if kept is not None] == [
        (0, 0),
        (10, 9),
        (20, 9),
        (30, 9),
    ]


def test_the_same_traceback_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a request that fails fills the disk, if it is repeated."""
    now_s = 1000.0
    monkeypatch.setattr(logs, "monotonic", lambda: now_s)
    log = logging.getLogger("tridetr.test")
    passing = TracebackFilter()
    log.addFilter(passing)
    try:
        for text in ("x", "x", "{}", "{}"):
            try:
                int(json.loads(text))
            except (ValueError, TypeError):
                log.exception("a request failed: %s", text)
        log.warning("without a traceback")
        log.warning("without a traceback")
    finally:
        log.removeFilter(passing)
    assert len(caplog.messages) == 4, caplog.text
    record = caplog.records[0]
    now_s += 61
    record.created -= 86_400  # the wall clock was set back
    assert passing.filter(record)
    assert "1 more" in record.getMessage()


@pytest.mark.parametrize(
    "refused", [LoginRefusedError("rtsp://camera/", 401, True), LoginTakenError("redirected")]
)
def test_logins_are_retried_after_a_minute_at_least(refused: SourceError) -> None:
    delays = ReconnectDelays(first_s=0.25)
    assert delays.failed(SourceError("gone"), 0.0) <= 0.25
    assert 60 <= delays.failed(refused, 0.0) <= 120
    assert 120 <= delays.failed(refused, 0.0) <= 240
    assert delays.failed(SourceError("gone"), 0.0) <= 0.5  # counted separately


def test_a_playlist_without_a_new_segment_is_read_again_soon() -> None:
    """An encoder that was started again was noticed up to ten seconds late."""
    delays = ReconnectDelays(first_s=0.25)
    assert {delays.failed(NoPictureYetError("stale"), 0.0) for _ in range(9)} == {1.0}
    assert delays.failed(SourceError("gone"), 0.0) <= 0.25


def test_messages_never_contain_the_password() -> None:
    error = av.error.ConnectionRefusedError(111, "Connection refused", "rtsp://u:secret@host/1")
    assert "secret" not in explain(error)
    assert "Connection refused" in explain(error)
    assert "port" in explain(error)  # the remedy


class TestCredentials:
    def test_are_added_to_the_url_and_quoted(self, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        file.write_text("admin:p@ss/w:rd\n")
        source = CameraSource.parse("rtsp://camera:554/stream?x=1")
        url = source.url(camera_credentials(file))
        assert url == "rtsp://admin:p%40ss%2Fw%3Ard@camera:554/stream?x=1"
        assert shown_url(url) == "rtsp://camera:554"

    def test_replace_a_user_in_the_url(self, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        file.write_text("admin:word")
        source = CameraSource.parse("rtsp://guest@camera/1")
        assert source.url(camera_credentials(file)) == "rtsp://admin:word@camera/1"

    @pytest.mark.parametrize("content", [None, "", "no colon", ":word"])
    def test_invalid_files_are_named(self, tmp_path: Path, content: str | None) -> None:
        file = tmp_path / "secret"
        if content is not None:
            file.write_text(content)
        # A path that does not exist may be the secret itself.
        named = "credentials_file: .*cannot be read" if content is None else "secret"
        with pytest.raises(ConfigError, match=named):
            camera_credentials(file)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("synthetic", "SyntheticSource"),
        ("/dev/video7", "V4l2Source"),
        ("rtsp://camera/1", "NetworkSource"),
        ("https://camera/mjpeg", "NetworkSource"),
        ("footage.mp4", "FileSource"),
        ("/srv/footage.mp4", "FileSource"),
    ],
)
def test_the_source_class_follows_from_the_source(source: str, expected: str) -> None:
    section = CameraSection(source=source)
    assert type(make_source("hall", section, threading.Event())).__name__ == expected


def test_messages_are_truncated_to_the_boards_capacity() -> None:
    assert shorten("short") == "short"
    assert len(shorten("x" * 500)) == 200
    assert shorten("x" + "é" * 200) == "x" + "é" * 99


def test_a_high_quality_jpeg_fits() -> None:
    assert jpeg_capacity(1920, 1080) > 1_500_000
    assert jpeg_capacity(16, 16) >= 4096  # headers need room in small pictures too
