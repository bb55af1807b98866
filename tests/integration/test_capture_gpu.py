"""Frames that are born on a (fake) GPU: on the device always, on the host only while somebody looks."""

from __future__ import annotations

import contextlib
import http.server
import io
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client import REGISTRY

from support.capture_rig import Rig, capturing
from support.clips import jpegs, picture, write_clip, write_mjpeg
from support.fake_cuda import FakeCuda, read_device
from support.fake_gpu import FakeDecoders, FakeVideo, Plane
from support.gateway import Gateway
from support.waiting import wait_for
from tridetr.capture.gpu.api import GpuDecodeError
from tridetr.capture.publisher import Publisher
from tridetr.capture.sentry import Sentry
from tridetr.capture.service import Capture
from tridetr.capture.sources.jpeg_decoder import JpegDecoder
from tridetr.capture.sources.select import make_source
from tridetr.capture.status import StatusReporter
from tridetr.config.schema import GatewaySection
from tridetr.cuda.memory import DeviceMemory
from tridetr.machine import find_gpus
from tridetr.shm.boards import CameraState, DemandReader, DemandWriter
from tridetr.shm.frames import FrameReader


@dataclass
class GpuRig:
    """A capture whose decoders and device memory are fake ones."""

    rig: Rig
    cuda: FakeCuda
    missing: tuple[str, ...] = ()
    with_memory: bool = True
    decoders: list[FakeDecoders] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def run(self) -> None:
        config, camera, stop = self.rig.config, self.rig.camera, self.rig.stop
        section = config.cameras[camera]
        try:
            with ExitStack() as stack:
                gpu = FakeDecoders(self.cuda, *self.missing)
                self.decoders.append(gpu)
                stack.callback(gpu.close)
                demand = stack.enter_context(DemandReader(config.instance, camera))
                memory = DeviceMemory(self.cuda, demand.wanted, forced=False)
                status = stack.enter_context(StatusReporter(config.instance, camera))
                sentry = stack.enter_context(Sentry(config.instance, camera))
                publisher = stack.enter_context(
                    Publisher(
                        config.instance, camera, section, memory if self.with_memory else None
                    )
                )
                source = make_source(camera, section, stop, gpu)
                stack.callback(source.close)
                Capture(config, camera, stop, source, status, sentry, publisher).run()
        except BaseException as error:
            self.errors.append(error)

    @property
    def down(self) -> int:
        """How many frames were copied to the host."""
        return self.cuda.copies.count("down")


@contextlib.contextmanager
def born_on_gpu(
    tmp_path: Path,
    source: str | Path,
    *,
    missing: tuple[str, ...] = (),
    memory: bool = True,
    **keys: Any,
) -> Iterator[GpuRig]:
    with capturing(tmp_path, source, start=False, decode="gpu", **keys) as rig:
        (tmp_path / "gpu").mkdir()
        gpu = GpuRig(rig, FakeCuda(tmp_path / "gpu"), missing, memory)
        thread = threading.Thread(target=gpu.run)
        thread.start()
        try:
            yield gpu
        finally:
            rig.stop.set()
            thread.join(20)
        assert not thread.is_alive()
        assert not gpu.errors, gpu.errors
        if memory:
            assert gpu.cuda.is_clean()


@dataclass(frozen=True)
class Look:
    """A frame as a reader finds it; planes are copies."""

    sequence: int
    number: int
    device_only: bool
    host: Plane
    device: Plane | None


def look(gpu: GpuRig, reader: FrameReader, after: int = 0) -> Look:
    """Wait for a frame newer than `after`."""

    def newest() -> Look | None:
        lease = reader.lease_newest(after)
        if lease is None:
            return None
        with lease:
            device = read_device(gpu.cuda.folder, lease.device) if lease.device else None
            return Look(
                lease.sequence,
                lease.stamp.frame_number,
                lease.device_only,
                lease.planes.copy(),
                device,
            )

    found = wait_for(newest, 15, f"a frame; errors {gpu.errors}")
    assert found is not None
    return found


def is_picture(shown: bytes, number: int, size: tuple[int, int]) -> bool:
    """Whether a JPEG shows the clip's frame of that number."""
    with Image.open(io.BytesIO(shown)) as opened:
        rgb = np.asarray(opened.convert("RGB")).astype(int)
    return bool(np.abs(rgb - picture(number, *size)).mean() < 8)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP."""
    handler = partial(QuietHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


MJPEG = jpegs(25, pix_fmt="yuvj422p")


def expected(number: int) -> Plane:
    """The frame of `MJPEG` with this number as I420, by the CPU's way."""
    decoded = JpegDecoder().decode(MJPEG[number % len(MJPEG)])
    y, u, v = decoded.planes
    return np.concatenate([y.reshape(-1), u[::2].reshape(-1), v[::2].reshape(-1)]).reshape(360, 320)


def test_the_host_has_pictures_only_while_somebody_wants_them(tmp_path: Path) -> None:
    file = write_mjpeg(tmp_path / "clip.mkv", MJPEG)
    with born_on_gpu(tmp_path, file) as gpu:
        config, camera = gpu.rig.config, gpu.rig.camera
        with FrameReader(config.instance, camera, "gateway") as reader:
            first = look(gpu, reader)
            second = look(gpu, reader, first.sequence)
            for seen in (first, second):
                assert seen.device_only
                assert np.array_equal(seen.device, expected(seen.number))
            assert gpu.cuda.copies == []

            with DemandWriter(config.instance, camera, "gateway") as demand:
                demand.touch()
                seen = second
                while seen.device_only:
                    seen = look(gpu, reader, seen.sequence)
                assert np.array_equal(seen.host, expected(seen.number))
                assert np.array_equal(seen.device, expected(seen.number))
            # What nobody asks for again runs out.
            wait_for(lambda: look(gpu, reader).device_only, 15, "the demand's end")
            down = gpu.down
            last = look(gpu, reader)
            for _ in range(5):
                last = look(gpu, reader, last.sequence)
                assert last.device_only
            assert gpu.down == down
    assert "up" not in gpu.cuda.copies
    seconds = REGISTRY.get_sample_value("tridetr_decode_seconds_count", {"camera": camera})
    assert seconds == gpu.rig.published


def test_without_device_memory_pictures_are_laid_on_the_host(tmp_path: Path) -> None:
    file = write_mjpeg(tmp_path / "clip.mkv", MJPEG)
    with born_on_gpu(tmp_path, file, memory=False) as gpu:
        with FrameReader(gpu.rig.config.instance, gpu.rig.camera, "gateway") as reader:
            seen = look(gpu, reader)
    assert not seen.device_only
    assert seen.device is None
    assert np.array_equal(seen.host, expected(seen.number))


def test_a_frozen_camera_is_noticed_though_no_picture_comes_to_the_host(tmp_path: Path) -> None:
    file = write_mjpeg(tmp_path / "clip.mkv", MJPEG[:1] * 60)
    with born_on_gpu(tmp_path, file, frozen_s=0.5) as gpu:
        gpu.rig.wait_state(CameraState.FROZEN)
        assert gpu.cuda.copies == []


def test_what_the_cpu_decodes_is_uploaded(tmp_path: Path) -> None:
    file = write_mjpeg(tmp_path / "clip.mkv", MJPEG)
    with born_on_gpu(tmp_path, file, missing=("jpeg",)) as gpu:
        with FrameReader(gpu.rig.config.instance, gpu.rig.camera, "gateway") as reader:
            seen = look(gpu, reader)
    assert not seen.device_only
    assert np.array_equal(seen.host, expected(seen.number))
    assert np.array_equal(seen.device, expected(seen.number))
    assert set(gpu.cuda.copies) == {"up"}


def test_viewer_and_snapshot_wait_for_a_picture_and_never_get_an_old_one(tmp_path: Path) -> None:
    size = (320, 240)
    folder = tmp_path / "www"
    folder.mkdir()
    write_clip(folder / "clip.mkv", 400, size=size, fps=10, options={"bf": "0", "g": "30"})
    with served(folder) as url, born_on_gpu(tmp_path, f"{url}/clip.mkv") as gpu:
        config, camera = gpu.rig.config, gpu.rig.camera
        update = {"gateway": GatewaySection(port=0)}
        with (
            Gateway(config.model_copy(update=update)) as gateway,
            FrameReader(config.instance, camera, "detector") as reader,
        ):
            seen = look(gpu, reader)
            assert seen.device_only
            assert gpu.down == 0

            answer = gateway.ask(f"/snapshot/{camera}.jpg")
            assert answer.status == 200
            assert is_picture(answer.body, int(answer.headers["x-frame-number"]), size)
            wait_for(lambda: look(gpu, reader).device_only, 15, "the snapshot's demand to end")

            for _ in range(2):  # the second one comes when the first one's pictures are long gone
                with gateway.watch(camera) as watcher:
                    numbers = []
                    for _ in range(3):
                        header, image = watcher.until("frame", 10)
                        assert is_picture(image, header["frame_number"], size), header
                        numbers.append(header["frame_number"])
                    assert numbers[0] > seen.number
                seen = wait_for(
                    lambda: found if (found := look(gpu, reader)).device_only else None, 15
                )


def test_a_stream_that_the_gpu_refuses_is_decoded_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise GpuDecodeError("CUDA_ERROR_OF_THIS_TEST")

    monkeypatch.setattr(FakeVideo, "decode", refuses)
    folder = tmp_path / "www"
    folder.mkdir()
    write_clip(folder / "clip.ts", 300, options={"bf": "0", "g": "1"})
    with served(folder) as url, born_on_gpu(tmp_path, f"{url}/clip.ts") as gpu:
        with FrameReader(gpu.rig.config.instance, gpu.rig.camera, "gateway") as reader:
            seen = look(gpu, reader)
        assert not seen.device_only
        assert gpu.rig.skipped("corrupt") == 14  # the fifteenth ended it
    assert len(gpu.decoders[0].videos) == 1
    assert "CUDA_ERROR_OF_THIS_TEST; the CPU decodes from now on" in caplog.text


def test_a_wish_for_a_gpu_that_is_not_there_costs_no_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole capture, nothing played: it says why once and decodes on the CPU."""
    if find_gpus().count:
        pytest.skip("there is a GPU")
    file = write_mjpeg(tmp_path / "clip.mkv", MJPEG)
    with capturing(tmp_path, file, decode="gpu") as rig:
        for seen in rig.wait_frames(3):
            assert np.array_equal(seen.planes, expected(seen.stamp.frame_number))
    said = [r.message for r in caplog.records if "no decoding on the GPU" in r.message]
    assert len(said) == 1
    assert "the CPU decodes" in said[0]
