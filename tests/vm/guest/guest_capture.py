"""Runs inside the virtual machine: the capture process from a real driver into a real ring."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from multiprocessing.context import ForkProcess
from pathlib import Path

import yaml
from guest_vivid import BARS, DRIVER, bar_colours

from support.waiting import wait_for
from tridetr.cli.main import main
from tridetr.shm.boards import CameraState, StatusReader
from tridetr.shm.frames import FrameLease, FrameReader
from tridetr.shm.names import list_instance, unlink_instance

INSTANCE = "vmtest"


def test_capture_process_fills_the_ring_and_survives_unplugging(tmp_path: Path) -> None:
    camera = "/dev/video0"
    config = tmp_path / "node.yaml"
    section = {"source": camera, "width": 640, "height": 360, "pixel_format": "yuyv"}
    config.write_text(yaml.safe_dump({"instance": INSTANCE, "cameras": {"bench": section}}))
    log = tmp_path / "log"
    process = fork_tridetr(["capture", "bench", "--config", str(config)], log)
    try:
        with FrameReader(INSTANCE, "bench", "detector") as frames:
            first = check_newest(frames, after=0)
            check_newest(frames, after=first)
            (DRIVER / "unbind").write_text("vivid.0")
            try:
                with StatusReader(INSTANCE, "bench") as status:
                    wait_for(lambda: state_of(status) is CameraState.OFFLINE, 10, "offline")
            finally:
                (DRIVER / "bind").write_text("vivid.0")
            # The old number means that the process let go of the device while it waited.
            assert Path(camera).exists()
            lease = frames.lease_newest()
            assert lease
            with lease as last:
                before = last.sequence
            check_newest(frames, after=before)
        process.terminate()
        process.join(10)
        assert process.exitcode == 0
    except BaseException:
        print(log.read_text())
        raise
    finally:
        process.kill()
        process.join()
        unlink_instance(INSTANCE)
    assert not list_instance(INSTANCE)
    text = log.read_text()
    assert "asked for yuyv 640x360 at any rate, got YUYV 640x360" in text
    assert "gone or its stream failed" in text


def fork_tridetr(arguments: list[str], log: Path) -> ForkProcess:
    """Start the command line in a process of its own, without importing everything afresh.

    In the virtual machine, which only pretends to have this processor, imports take half a minute.
    """

    def run() -> None:
        with log.open("wb", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = ["tridetr", *arguments]
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        main()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def state_of(status: StatusReader) -> CameraState | None:
    entry = status.read()
    return entry.state if entry else None


def check_newest(frames: FrameReader, after: int) -> int:
    """Check geometry, age and colours of the next frame; return its sequence."""
    lease: FrameLease = wait_for(lambda: frames.lease_newest(after), 60, "a frame")
    with lease:
        assert (lease.width, lease.height) == (640, 360)
        age_s = (time.monotonic_ns() - lease.stamp.capture_monotonic_ns) / 1e9
        assert 0 < age_s < 3
        rows = lease.planes
        y, chroma = rows[:360], rows[360:].reshape(2, 180, 320)
        for colour, bar in zip(bar_colours(y, chroma[0], chroma[1]), BARS, strict=True):
            assert all(abs(c - 191 * part) < 7 for c, part in zip(colour, bar, strict=True))
        return lease.sequence
