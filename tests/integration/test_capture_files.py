"""Files as cameras with a real ring: in real time, looping, ending and lossless."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from support.capture_rig import Decider, FakeController, Seen, capturing, play_through
from support.clips import decoded, jpegs, write_clip, write_mjpeg
from support.data import FOOTAGE, shared
from support.waiting import slack, wait_for
from tridetr.capture.sources import picture
from tridetr.capture.sources.jpeg_decoder import JpegDecoder
from tridetr.shm.boards import CameraState, SentryMode
from tridetr.shm.frames import ColorMatrix, ColorRange

FRAME_NS = 1_000_000_000 / 30


def assert_clock(frames: list[Seen], frame_ns: float) -> None:
    """Check that capture times are the file's own: they follow from frame numbers, even after a missed frame."""
    numbers = np.array([frame.stamp.frame_number for frame in frames])
    times = np.array([frame.stamp.capture_monotonic_ns for frame in frames])
    assert (np.diff(numbers) > 0).all()
    assert times - times[0] == pytest.approx((numbers - numbers[0]) * frame_ns, abs=2e6)


def test_real_footage_in_real_time(tmp_path: Path) -> None:
    footage = shared(*FOOTAGE)
    with capturing(tmp_path, footage) as rig:
        frames = rig.wait_frames(20)
        status = rig.status()
    assert_clock(frames, 1e8)  # 10 fps
    times = [frame.stamp.capture_monotonic_ns for frame in frames]
    assert max(frame.seen_ns - t for frame, t in zip(frames, times, strict=True)) < slack(1) * 1e9
    assert frames[0].planes.shape == (432 * 3 // 2, 768)
    assert frames[0].stamp.color_range is ColorRange.LIMITED
    assert frames[0].stamp.color_matrix is ColorMatrix.BT601
    assert status is not None
    assert (status.width, status.height, status.source_kind) == (768, 432, "file")
    assert status.capture_clock == "playback"


@pytest.mark.parametrize(
    ("codec", "pix_fmt"), [("libx264", "yuv420p"), ("mjpeg", "yuvj420p"), ("libx264", "nv12")]
)
def test_every_pixel_arrives(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    clip = write_clip(tmp_path / "clip.mkv", 12, codec=codec, pix_fmt=pix_fmt)
    expected = decoded(clip)
    rig = play_through(tmp_path, clip)
    assert len(rig.frames) == 12
    for frame, truth in zip(rig.frames, expected, strict=True):
        np.testing.assert_array_equal(frame.planes, truth)


def test_422_jpegs_are_halved_and_passed_through(tmp_path: Path) -> None:
    packets = jpegs(5, pix_fmt="yuvj422p")
    with capturing(tmp_path, write_mjpeg(tmp_path / "clip.avi", packets)) as rig:
        frames = rig.wait_frames(5)
    decoder = JpegDecoder()
    for frame in frames:
        assert frame.jpeg == packets[frame.stamp.frame_number % 5]
        source = decoder.decode(frame.jpeg)
        assert source.planes[1].shape == (240, 160)  # it is 4:2:2
        rows = frame.planes.reshape(-1)
        u = rows[320 * 240 : 320 * 240 * 5 // 4].reshape(120, 160)
        np.testing.assert_array_equal(frame.planes[:240], source.planes[0])
        np.testing.assert_array_equal(u, source.planes[1][::2])
        assert frame.stamp.color_range is ColorRange.FULL
        assert frame.stamp.color_matrix is ColorMatrix.BT601


def test_oversized_jpeg_is_left_out_and_counted(tmp_path: Path) -> None:
    packets = jpegs(10)
    packets[4] += bytes(100_000)  # a camera that pads; a 320x240 slot keeps 64 KiB
    rig = play_through(tmp_path, write_mjpeg(tmp_path / "clip.avi", packets))
    frames = {frame.stamp.frame_number: frame for frame in rig.frames}
    too_big = REGISTRY.get_sample_value("tridetr_jpeg_too_big_total", {"camera": rig.camera})
    assert frames[4].jpeg == b""
    assert frames[5].jpeg == packets[5]
    assert too_big == 1
    assert frames[4].planes.mean() > 10  # the picture is available nevertheless


def test_odd_sizes_are_cropped_by_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tridetr.capture")
    clip = write_clip(tmp_path / "odd.avi", 3, codec="mjpeg", pix_fmt="yuvj420p", size=(321, 241))
    with capturing(tmp_path, clip) as rig:
        frames = rig.wait_frames(2)
    assert frames[0].planes.shape == (360, 320)
    assert "321x241 is cropped to 320x240" in caplog.text


def test_rare_formats_are_converted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture, "_converted", set())  # a process logs each format once
    clip = write_clip(tmp_path / "444.mp4", 3, pix_fmt="yuv444p")
    with capturing(tmp_path, clip) as rig:
        frames = rig.wait_frames(2)
    assert frames[0].planes.shape == (360, 320)
    assert "yuv444p, which is converted to I420" in caplog.text


def test_frame_numbers_continue_over_loops(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "short.mp4", 10)
    with capturing(tmp_path, clip) as rig:
        frames = rig.wait_frames(35)
    assert frames[-1].stamp.frame_number >= 34
    assert_clock(frames, FRAME_NS)  # across the loops too


def test_end_of_file_ends_capture(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "short.mp4", 10)
    with capturing(tmp_path, clip, loop=False) as rig:
        wait_for(lambda: not rig.running, 20, "capture ends")
        status = rig.wait_state(CameraState.ENDED)
        assert "has ended" in status.message
        wait_for(lambda: rig.frames[-1].stamp.frame_number == 9, 20, "the last frame")
        assert rig.published == 10


class TestWithoutLoss:
    def test_every_frame_waits_for_its_decision(self, tmp_path: Path) -> None:
        clip = write_clip(tmp_path / "clip.mp4", 90, fps=10)
        with capturing(tmp_path, clip, start=False, loop=False, realtime=False) as rig:
            decider = Decider(rig, SentryMode.ALARMED, delay_s=0.003)
            decider.start()
            started = time.monotonic()
            rig.start()
            wait_for(lambda: not rig.running, 20, "the end of the file")
            took = time.monotonic() - started
            rig.finish()
            decider.join()
        assert [frame.stamp.frame_number for frame in rig.frames] == list(range(90))
        assert max(decider.ahead) == 1  # never a second frame before the decision
        assert all(frame.stamp.lossless for frame in rig.frames)
        times = np.array([frame.stamp.capture_monotonic_ns for frame in rig.frames])
        assert np.diff(times) == pytest.approx(1e8, abs=1e6)  # the media's clock
        assert took < 9.0, "faster than real time"
        assert not rig.errors

    def test_standby_is_3_fps_of_media_time(self, tmp_path: Path) -> None:
        clip = write_clip(tmp_path / "clip.mp4", 90)
        rig = play_through(tmp_path, clip, SentryMode.STANDBY)
        assert [frame.stamp.frame_number for frame in rig.frames] == list(range(0, 90, 10))

    def test_waits_without_a_controller(self, tmp_path: Path) -> None:
        clip = write_clip(tmp_path / "clip.mp4", 30)
        with capturing(tmp_path, clip, realtime=False) as rig:
            rig.wait_frames(1)
            rig.stop.wait(0.5)
            assert len(rig.frames) == 1


class TestPacing:
    def test_standby_then_alarm_then_no_controller(self, tmp_path: Path) -> None:
        clip = write_clip(tmp_path / "clip.mp4", 60)
        with capturing(tmp_path, clip, start=False) as rig:
            controller = FakeController(rig)
            controller.write(SentryMode.STANDBY)
            rig.start()
            calm = rig.wait_frames(6)
            numbers = [frame.stamp.frame_number for frame in calm]
            assert np.median(np.diff(numbers)) == pytest.approx(10, abs=1)
            assert rig.skipped("pacing") >= 40

            alarm_ns = time.monotonic_ns()
            controller.write(SentryMode.ALARMED)
            quick = [f for f in rig.wait_frames(12) if f.stamp.capture_monotonic_ns > alarm_ns]
            assert (quick[0].stamp.capture_monotonic_ns - alarm_ns) / 1e6 < slack(150)
            assert np.median(np.diff([f.stamp.frame_number for f in quick[:8]])) <= 2

            controller.write(SentryMode.STANDBY)
            rig.wait_frames(3)
            controller.write(SentryMode.STANDBY, lasts_s=0)  # the controller has died
            rig.wait_frames(2)
            alone = [frame.stamp.frame_number for frame in rig.wait_frames(8)]
            assert np.median(np.diff(alone)) <= 2
            controller.close()

    def test_jpegs_that_pacing_skips_are_not_decoded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decodes: list[int] = []
        decode = JpegDecoder.decode

        def counting(self: JpegDecoder, jpeg: bytes) -> object:
            decodes.append(1)
            return decode(self, jpeg)

        monkeypatch.setattr(JpegDecoder, "decode", counting)
        clip = write_mjpeg(tmp_path / "clip.avi", jpegs(30))
        with capturing(tmp_path, clip, start=False) as rig:
            controller = FakeController(rig)
            controller.write(SentryMode.STANDBY)
            rig.start()
            wait_for(lambda: rig.skipped("pacing") >= 40, 30, "skips")
            assert len(decodes) <= len(rig.frames) + 1
            controller.close()


def test_repeated_picture_is_frozen_until_it_changes(tmp_path: Path) -> None:
    same = [7] * 75  # 2.5 s
    clip = write_clip(
        tmp_path / "frozen.avi", 0, codec="mjpeg", pix_fmt="yuvj420p",
        indices=[*same, *range(10, 40)],
    )  # fmt: skip
    with capturing(tmp_path, clip, frozen_s=1.5) as rig:
        frozen = rig.wait_state(CameraState.FROZEN)
        assert "identical picture" in frozen.message
        assert rig.wait_state(CameraState.LIVE).message == ""


def test_new_frame_size_creates_a_new_ring(tmp_path: Path) -> None:
    packets = [*jpegs(10), *jpegs(10, size=(640, 480)), *jpegs(10)]
    clip = write_mjpeg(tmp_path / "sizes.avi", packets)
    rig = play_through(tmp_path, clip)
    sizes = {frame.stamp.frame_number: frame.planes.shape for frame in rig.frames}
    generations = {frame.stamp.frame_number: frame.generation for frame in rig.frames}
    assert sizes[5] == (360, 320)
    assert sizes[15] == (720, 640)
    assert sizes[25] == (360, 320)
    assert generations[5] < generations[15] < generations[25]
    sequences = [frame.sequence for frame in rig.frames]
    assert sequences == sorted(set(sequences))
