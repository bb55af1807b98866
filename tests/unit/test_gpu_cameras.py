"""A camera's packets become frames on the GPU and on the host, with simulated decoders."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.clips import jpegs, write_clip
from support.fake_cuda import read_device
from support.fake_gpu import FakeDecoders, Plane
from support.rings import result_stamp
from support.waiting import slack, wait_for
from tridetr.capture.frame_watch import FrameWatch
from tridetr.capture.packets import PacketSink
from tridetr.capture.sources.av import open_video, packets
from tridetr.config import Config
from tridetr.config.node_sections import EvidenceSection
from tridetr.errors import CudaError, GpuMemoryError, ShmError
from tridetr.gpu import gpu_process
from tridetr.gpu.cameras import Decoder
from tridetr.gpu.gpu_process import serve
from tridetr.recorder.archive import Archive
from tridetr.recorder.camera_recorder import CameraWatcher
from tridetr.served_model import ServedModelReader
from tridetr.shm.boards import SentryMode, SentrySnapshot, SentryState, SentryWriter
from tridetr.shm.detections import DETECTION_DTYPE, DetectionWriter
from tridetr.shm.frames import DeviceFrameReader, FrameReader


def make_config(instance: str, folder: Path, **camera: Any) -> Config:
    return Config.model_validate({
        "instance": instance,
        "cameras": {"cam": {"source": "rtsp://c/1", "decode": "gpu"} | camera},
        "run_dir": folder,
        "state_dir": folder,
    })  # fmt: skip


@pytest.fixture
def decoders(tmp_path: Path) -> FakeDecoders:
    folder = tmp_path / "gpu"
    folder.mkdir()
    return FakeDecoders(folder)


def seen_by(decoders: FakeDecoders, instance: str) -> tuple[int, Plane]:
    """Return sequence and picture of the newest frame, which must be equal on host and GPU."""
    with (
        FrameReader(instance, "cam", None) as host,
        DeviceFrameReader(instance, "cam", None) as device,
    ):
        at_host, on_gpu = host.lease_newest(), device.lease_newest()
        assert at_host is not None
        assert on_gpu is not None
        with at_host, on_gpu:
            assert at_host.sequence == on_gpu.sequence
            assert at_host.stamp == on_gpu.stamp
            picture = at_host.planes.copy()
            assert np.array_equal(read_device(decoders.gpu.folder, on_gpu.device), picture)
            return at_host.sequence, picture


def decode(file: Path, sink: PacketSink, work: Decoder) -> Iterator[None]:
    """Publish a file's packets, and yield after each one has been decoded."""
    container, stream = open_video(str(file), shown=file.name, options={}, timeout_s=5)
    sink.open(stream)
    for index, packet in enumerate(packets(container, stream)):
        sink.put(packet, 10**9 + index, 10**9 + index)
        work.step(0)
        yield


def test_packets_become_frames_in_both_memories(
    instance: str, tmp_path: Path, decoders: FakeDecoders
) -> None:
    """B-frames: each picture of the stream once, in display order."""
    config = make_config(instance, tmp_path)
    file = write_clip(tmp_path / "c.mkv", 12, options={"bf": "2"})
    pictures: dict[int, Plane] = {}
    with (
        PacketSink(instance, "cam", config.packets) as sink,
        Decoder(decoders, config, "cam") as work,
    ):
        for _ in decode(file, sink, work):
            before = len(pictures)
            if decoders.gpu.copies:
                sequence, picture = seen_by(decoders, instance)
                pictures[sequence] = picture
            assert len(pictures) - before in (0, 1)
        assert len(pictures) >= 8
        assert list(pictures) == list(range(1, len(pictures) + 1))
    container, stream = open_video(str(file), shown=file.name, options={}, timeout_s=5)
    expected = [
        frame.reformat(format="yuv420p").to_ndarray()
        for packet in packets(container, stream)
        for frame in stream.codec_context.decode(packet)
    ]
    for picture, wanted in zip(pictures.values(), expected, strict=False):
        assert np.array_equal(picture, wanted)
    assert decoders.gpu.is_clean()


def test_the_recorder_keeps_the_picture_of_a_frame_that_the_gpu_decoded(
    instance: str, tmp_path: Path, decoders: FakeDecoders
) -> None:
    """The detector's result is for the frame in GPU memory, the recorder's copy is from the frame ring."""
    config = make_config(instance, tmp_path).model_copy(update={"evidence": EvidenceSection()})
    file = write_clip(tmp_path / "c.mkv", 6)
    with (
        PacketSink(instance, "cam", config.packets) as sink,
        Decoder(decoders, config, "cam") as work,
        DetectionWriter(instance, "cam") as results,
        SentryWriter(instance, "cam") as board,
        closing(Archive(tmp_path / "evidence", keep_days=1, max_mib=64)) as archive,
        CameraWatcher(config, "cam", ServedModelReader(config.run_dir), archive) as watcher,
    ):
        for _ in decode(file, sink, work):
            pass
        sequence, picture = seen_by(decoders, instance)
        with DeviceFrameReader(instance, "cam", None) as reader:
            lease = reader.lease_newest()
            assert lease is not None
            with lease:
                stamp = result_stamp(
                    lease.stamp.frame_number,
                    frame_sequence=sequence,
                    width=lease.width,
                    height=lease.height,
                    capture_monotonic_ns=lease.stamp.capture_monotonic_ns,
                )
        found = np.zeros(1, DETECTION_DTYPE)
        found[0] = (10, 20, 60, 100, 0.9, 1, 0)
        results.publish(stamp, found)
        board.write(
            SentrySnapshot(
                SentryMode.ALARMED,
                SentryState.VALIDATION,
                0,
                "",
                1 << 62,
                decided_frame_sequence=sequence,
            )
        )
        watcher.poll()
        assert watcher._run is not None
        best = watcher._run.best
        assert best is not None
        assert np.array_equal(best.pixels.planes, picture)


def test_jpegs_keep_their_bytes_and_may_change_size(
    instance: str, tmp_path: Path, decoders: FakeDecoders
) -> None:
    config = make_config(instance, tmp_path)
    with (
        PacketSink(instance, "cam", config.packets) as sink,
        Decoder(decoders, config, "cam") as work,
    ):
        for size in ((320, 240), (160, 120), (320, 240)):
            sink.open_jpegs(*size, 30.0)
            for jpeg in jpegs(3, size=size):
                now = time.monotonic_ns()
                sink.put_jpeg(memoryview(jpeg), now, now)
                work.step(0)
                seen_by(decoders, instance)
                with FrameReader(instance, "cam", None) as reader:
                    lease = reader.lease_newest()
                    assert lease is not None
                    with lease:
                        assert (lease.width, lease.height) == size
                        assert bytes(lease.jpeg) == jpeg
    assert decoders.gpu.is_clean()


def test_a_stream_that_the_gpu_does_not_decode_is_logged_once(
    instance: str, tmp_path: Path, decoders: FakeDecoders, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(instance, tmp_path)
    with (
        PacketSink(instance, "cam", config.packets) as sink,
        Decoder(decoders, config, "cam") as work,
    ):
        sink.open_jpegs(320, 240, 30.0)
        for jpeg in jpegs(4, pix_fmt="yuvj444p"):
            now = time.monotonic_ns()
            sink.put_jpeg(memoryview(jpeg), now, now)
            work.step(0)
    assert caplog.text.count("the GPU does not decode this stream") == 1
    assert "decode: cpu" in caplog.text


def test_one_unsupported_picture_does_not_end_a_camera(
    instance: str, tmp_path: Path, decoders: FakeDecoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(instance, tmp_path)
    with (
        PacketSink(instance, "cam", config.packets) as sink,
        Decoder(decoders, config, "cam") as work,
        FrameReader(instance, "cam", None) as reader,
    ):
        sink.open_jpegs(320, 240, 30.0)

        def newest_after(jpeg: bytes) -> int:
            now = time.monotonic_ns()
            sink.put_jpeg(memoryview(jpeg), now, now)
            work.step(0)
            lease = reader.lease_newest()
            assert lease is not None
            with lease:
                return lease.sequence

        good, odd = jpegs(1)[0], jpegs(1, pix_fmt="yuvj444p")[0]
        first = newest_after(good)
        assert newest_after(odd) == first
        assert newest_after(good) == first  # not with each picture
        monkeypatch.setattr("tridetr.gpu.cameras.time.monotonic", lambda: time.perf_counter() + 1e9)
        assert newest_after(good) > first
    assert decoders.gpu.is_clean()


def test_capture_reports_why_there_are_no_frames(
    instance: str, tmp_path: Path, decoders: FakeDecoders
) -> None:
    config = make_config(instance, tmp_path)
    with FrameWatch(instance, "cam", 5.0) as watch:
        now = time.monotonic_ns()
        assert watch.fault(now) == ""  # it may still be starting
        later = now + 60 * 10**9
        assert "the gpu process is not running" in watch.fault(later)
        with (
            PacketSink(instance, "cam", config.packets) as sink,
            Decoder(decoders, config, "cam") as work,
        ):
            sink.open_jpegs(320, 240, 30.0)
            sink.put_jpeg(memoryview(jpegs(1)[0]), now, now)
            work.step(0)
            with watch.newest() or pytest.fail("there is a frame") as lease:
                assert watch.size == (lease.width, lease.height) == (320, 240)
            assert watch.newest() is None
            assert "does not decode this stream" in watch.fault(later)
        assert "the gpu process is not running" in watch.fault(later)


def test_decode_gpu_is_for_cameras_with_packets(instance: str, tmp_path: Path) -> None:
    for camera in ({"source": "synthetic"}, {"source": "/dev/video0", "pixel_format": "yuyv"}):
        with pytest.raises(ValueError, match="decode: gpu is for network cameras"):
            make_config(instance, tmp_path, **camera)
    make_config(instance, tmp_path, source="/dev/video0")


class Work:
    """Work that fails with each of the given errors."""

    def __init__(self, errors: list[Exception]) -> None:
        self.errors = errors
        self.steps = 0
        self.closed = 0

    def step(self, timeout_s: float) -> None:
        self.steps += 1
        time.sleep(0.01)  # as long as a frame takes
        if self.errors:
            raise self.errors.pop(0)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    "error", [ShmError("/dev/shm is too small"), GpuMemoryError("the GPU's memory is full")]
)
def test_one_camera_without_memory_does_not_stop_the_others(error: Exception) -> None:
    works = {"a": Work([error]), "b": Work([])}
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(["a", "b"], works.__getitem__, stop))
    thread.start()
    wait_for(lambda: works["a"].steps > 3 and works["b"].steps > 3, slack(10), "both cameras")
    stop.set()
    thread.join(slack(10))
    assert (works["a"].closed, works["b"].closed) == (2, 1)


def test_a_gpu_that_is_slow_to_open_is_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process was killed and started again for as long as each opening took."""
    beats: list[float] = []
    monkeypatch.setattr(gpu_process, "_HUNG_S", 0.01)
    monkeypatch.setattr(gpu_process, "_TURN_S", 0.01)
    monkeypatch.setattr("tridetr.gpu.gpu_process.heartbeat.beat", lambda: beats.append(0))
    works, stop = {"a": Work([])}, threading.Event()

    def make(camera: str) -> Work:
        wait_for(lambda: len(beats) > 10, slack(10), "beats while it opens")
        return works[camera]

    thread = threading.Thread(target=serve, args=(["a"], make, stop))
    thread.start()
    wait_for(lambda: works["a"].steps > 0, slack(10), "the camera")
    stop.set()
    thread.join(slack(10))


def test_a_broken_gpu_ends_the_process() -> None:
    works = {"a": Work([CudaError("Xid 79")]), "b": Work([])}
    with pytest.raises(CudaError, match="Xid 79"):
        serve(["a", "b"], works.__getitem__, threading.Event())
    assert works["b"].closed == 1
