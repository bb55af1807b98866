"""The gpu process with the real cuda-bindings and a driver library that simulates a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.waiting import slack, wait_for
from tridetr.machine import has_bindings
from tridetr.shm.frames import DeviceFrameReader, FrameLease, FrameReader
from tridetr.shm.hold import DeviceHold

_SOURCE = Path(__file__).parents[1] / "support" / "strict_cuda.c"

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the driver that simulates a GPU, and return its folder."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    if not has_bindings():
        pytest.skip("cuda-bindings is not installed (pip install -e '.[dev]')")
    folder = tmp_path_factory.mktemp("driver")
    command = [compiler, "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(_SOURCE)]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def start(library: Path, instance: str, tmp_path: Path) -> Iterator[Start]:
    """Yield a function that starts a process of the node."""
    config = tmp_path / "tridetr.yaml"
    config.write_text(
        f"instance: {instance}\nrun_dir: {tmp_path}/run\nstate_dir: {tmp_path}/state\n"
        "cameras: {cam: {source: synthetic, width: 320, height: 240, fps: 20}}\n"
    )
    running: list[subprocess.Popen[str]] = []

    def begin(*words: str, **environment: str) -> subprocess.Popen[str]:
        variables = {**os.environ, "LD_LIBRARY_PATH": str(library)} | environment
        command = [sys.executable, "-m", "tridetr", *words, "--config", str(config)]
        running.append(subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield begin
    for process in running:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=slack(20))


def test_frames_are_uploaded_and_survive_the_process(start: Start, instance: str) -> None:
    start("capture", "cam")
    with (
        DeviceFrameReader(instance, "cam", "detector") as device,
        FrameReader(instance, "cam", "detector") as host,
    ):
        first = start("gpu")
        lease = wait_for(lambda: device.lease_newest(5), slack(30), "a frame on the GPU")
        with lease:
            place = lease.device
            assert place.region.handle == bytes(range(200, 136, -1))
            assert place.region.uuid == bytes(range(1, 17))
            assert place.pixels_nbytes == 320 * 240 * 3 // 2
            after = lease.sequence
        with DeviceHold(place.region) as hold:
            assert hold.is_current()
            first.kill()
            first.wait()
            assert hold.is_lost()
        assert not device.is_written()  # which the detector sees with its next frame
        wait_for(lambda: _release(host.lease_newest(after + 5)), slack(10), "capture's frames")
        second = start("gpu")
        wait_for(device.is_written, slack(30), "the gpu process")
        lease = wait_for(lambda: device.lease_newest(after), slack(10), "a frame on the GPU")
        with lease:
            assert lease.device.region.epoch == 2
        second.terminate()
        _, logged = second.communicate(timeout=slack(20))
        assert second.returncode == 0, logged


def _release(lease: FrameLease | None) -> bool:
    if lease is not None:
        lease.release()
    return lease is not None


def test_full_gpu_memory_stops_neither_the_process_nor_capture(start: Start, instance: str) -> None:
    capture = start("capture", "cam")
    process = start("gpu", TRIDETR_FAKE_FAILS="cuMemAlloc:2")
    assert process.stderr is not None
    refused = next(line for line in process.stderr if "CUDA_ERROR_OUT_OF_MEMORY" in line)
    assert "camera cam" in refused
    assert "Remedy" in refused
    with FrameReader(instance, "cam", "detector") as host:
        wait_for(lambda: _release(host.lease_newest()), slack(10), "capture's frames")
    assert capture.poll() is None
    assert process.poll() is None
    process.terminate()
    _, logged = process.communicate(timeout=slack(20))
    assert process.returncode == 0, logged
    assert "Traceback" not in logged


def test_gpu_failure_ends_the_process_but_not_capture(start: Start, instance: str) -> None:
    capture = start("capture", "cam")
    process = start("gpu", TRIDETR_FAKE_FAILS="cuMemcpyHtoDAsync:700")
    _, logged = process.communicate(timeout=slack(30))
    assert process.returncode != 0
    assert "ILLEGAL_ADDRESS" in logged
    assert "Remedy" in logged
    assert "Traceback" not in logged
    with FrameReader(instance, "cam", "detector") as host:
        wait_for(lambda: _release(host.lease_newest()), slack(10), "capture's frames")
    assert capture.poll() is None


def test_capture_opens_no_gpu(start: Start, instance: str) -> None:
    capture = start("capture", "cam")
    with FrameReader(instance, "cam", "detector") as host:
        wait_for(lambda: _release(host.lease_newest()), slack(20), "capture's frames")
    maps = Path(f"/proc/{capture.pid}/maps").read_text()
    assert "libcuda" not in maps
