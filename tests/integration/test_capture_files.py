"""Files as cameras with a real ring: in real time, looping, ending, lossless and damaged."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from support.capture_rig import Decider, FakeController, Rig, Seen, capturing
from support.clips import decoded, jpegs, write_clip, write_mjpeg
from support.data import FOOTAGE, shared
from support.waiting import slack, wait_for
from tridetr.capture import publisher
from tridetr.capture.sources.jpeg_decoder import JpegDecoder
from tridetr.errors import ShmError
from tridetr.shm.boards import CameraState, SentryMode
from tridetr.shm.frames import ColorMatrix, ColorRange
from tridetr.telemetry import heartbeat

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


def test_status_reports_no_space_for_the_ring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise ShmError("/dev/shm is full")

    monkeypatch.setattr(publisher, "FrameWriter", full)
    clip = write_clip(tmp_path / "clip.mp4", 5)
    with capturing(tmp_path, clip) as rig:
        assert rig.wait_state(CameraState.OFFLINE).message == "/dev/shm is full"
        wait_for(lambda: not rig.running, 20, "the process ends, to be started again")
        assert isinstance(rig.errors.pop(), ShmError)


def test_odd_sizes_are_cropped_by_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tridetr.capture")
    clip = write_clip(tmp_path / "odd.avi", 3, codec="mjpeg", pix_fmt="yuvj420p", size=(321, 241))
    with capturing(tmp_path, clip) as rig:
        frames = rig.wait_frames(2)
    assert frames[0].planes.shape == (360, 320)
    assert "321x241 is cropped to 320x240" in caplog.text


def test_rare_formats_are_converted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
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


def play_through(tmp_path: Path, clip: Path, mode: SentryMode = SentryMode.ALARMED) -> Rig:
    """Play a clip to its end without loss; the rig holds every frame."""
    with capturing(tmp_path, clip, start=False, loop=False, realtime=False) as rig:
        decider = Decider(rig, mode)
        decider.start()
        rig.start()
        wait_for(lambda: not rig.running, 30, "the end of the file")
        assert rig.wait_state(CameraState.ENDED)
        rig.finish()
        decider.join()
    assert not rig.errors
    return rig


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


def test_garbage_packets_are_skipped_and_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    packets = jpegs(30)
    noise = rng.integers(0, 256, 3000, dtype=np.uint8).tobytes()
    damaged = {3: noise, 9: packets[9][: len(packets[9]) // 2], 15: b"\xff\xd8" + bytes(50)}
    for index, data in damaged.items():
        packets[index] = data
    rig = play_through(tmp_path, write_mjpeg(tmp_path / "bad.avi", packets))
    numbers = [frame.stamp.frame_number for frame in rig.frames]
    assert numbers == [n for n in range(30) if n not in damaged]
    assert rig.skipped("corrupt") == 3


def test_damaged_h264_continues_after_the_damage(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.ts", 90, options={"g": "15", "bf": "0"})
    data = bytearray(clip.read_bytes())
    rng = np.random.default_rng(1)
    third = len(data) // 3
    for at in rng.integers(third, 2 * third, third // 30):
        data[at] ^= 0xA5
    clip.write_bytes(data)
    rig = play_through(tmp_path, clip)
    assert rig.skipped("corrupt") > 0
    assert len(rig.frames) > 20


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


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("missing.mp4", None, "No such file"),
        ("empty.mp4", b"", "damaged"),
        ("text.mp4", b"this is no video\n" * 500, "no video"),
        ("text.txt", b"this is no video\n" * 500, "no video"),
        ("noise.mp4", np.random.default_rng(0).bytes(50_000), ""),
        ("folder", "folder", "not a folder"),
        ("sound.wav", "sound", "no video in it"),
        ("no_index.mp4", "no_index", "damaged"),
    ],
)
def test_bad_files_are_offline_with_the_reason(
    tmp_path: Path, name: str, content: bytes | str | None, expected: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    elif content == "sound":
        header = b"RIFF\x24\x10\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\0\x10\0\0"
        path.write_bytes(header + bytes(4096))
    elif content == "no_index":
        whole = write_clip(tmp_path / "whole.mp4", 30).read_bytes()
        path.write_bytes(whole[: whole.index(b"moov")])  # a recorder that lost power
    with capturing(tmp_path, path) as rig:
        status = rig.wait_state(CameraState.OFFLINE)
        assert expected in status.message
        wait_for(lambda: (rig.status() or status).reconnects >= 2, 30, "it is tried again")
        assert not rig.frames


def test_truncated_file_is_played_up_to_its_end(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mkv", 60).read_bytes()
    clip = tmp_path / "cut.mkv"
    clip.write_bytes(whole[: len(whole) * 2 // 3])
    assert 20 <= len(play_through(tmp_path, clip).frames) < 60


def test_a_file_that_appears_later_is_found(tmp_path: Path) -> None:
    path = tmp_path / "later.mp4"
    with capturing(tmp_path, path) as rig:
        rig.wait_state(CameraState.OFFLINE)
        write_clip(path, 30)
        rig.wait_state(CameraState.LIVE)
        rig.wait_frames(5)


def test_full_ring_is_a_counted_skip(tmp_path: Path) -> None:
    from tridetr.shm.frames import FrameReader

    clip = write_clip(tmp_path / "clip.mp4", 60)
    with capturing(tmp_path, clip, slots=4) as rig:
        with FrameReader(rig.config.instance, rig.camera, "gateway") as reader:
            leases: list[object] = []
            last = 0

            def all_taken() -> bool:
                nonlocal last
                lease = reader.lease_newest(last)
                if lease is not None:
                    last = lease.sequence
                    leases.append(lease)
                return rig.skipped("ring_full") > 3

            wait_for(all_taken, 30, "skips while all slots are leased")
        rig.wait_frames(5)  # the reader has released its leases


class TestFifo:
    """Represents all files whose reads may block, such as those on a stalled network share."""

    def test_without_a_writer_capture_is_offline_and_alive(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        beats: list[float] = []
        monkeypatch.setattr(heartbeat, "beat", lambda: beats.append(time.monotonic()))
        fifo, clip = tmp_path / "fifo.ts", write_clip(tmp_path / "clip.ts", 60)
        os.mkfifo(fifo)
        with capturing(tmp_path, fifo, timeout_s=1) as rig:
            assert "FIFO without a writer" in rig.wait_state(CameraState.OFFLINE).message
            wait_for(lambda: (status := rig.status()) and status.reconnects >= 2, 30)
            assert max(np.diff(beats)) < 2.0, "no heartbeat: the supervisor would kill it"
            threads = [t for t in threading.enumerate() if t.name == "blocking-calls"]
            assert len(threads) == 1
            data = clip.read_bytes()
            with fifo.open("wb") as writer:
                writer.write(data[: len(data) // 2])
                writer.flush()
                rig.wait_frames(5)
                # A writer that pauses: offline, but the file is not reopened
                stalled = rig.wait_state(CameraState.OFFLINE)
                assert "no answer" in stalled.message
                writer.write(data[len(data) // 2 :])
                writer.flush()
                rig.wait_frames(5)
                assert rig.wait_state(CameraState.LIVE).reconnects == stalled.reconnects

    def test_does_not_delay_shutdown(self, tmp_path: Path) -> None:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        with capturing(tmp_path, fifo, timeout_s=60) as rig:
            wait_for(lambda: (status := rig.status()) and status.state is CameraState.STARTING)
            rig.finish(within_s=slack(2.0))
        writer = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)  # releases the thread
        os.close(writer)
