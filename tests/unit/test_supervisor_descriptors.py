"""A supervisor that has no file descriptor left: it ended, and the node with it."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.rings import put_frame
from tridetr.config import Config
from tridetr.errors import ShmError
from tridetr.shm.detections import DetectionWriter
from tridetr.shm.frames import FrameReader, FrameWriter
from tridetr.supervisor.counters import Counters
from tridetr.supervisor.process import ManagedProcess
from tridetr.supervisor.process_list import ProcessSpec
from tridetr.supervisor.progress import PipelineWatch
from tridetr.supervisor.run_folder import RunFolder
from tridetr.supervisor.timings import TimingsSampler
from tridetr.telemetry.stderr import OutputReaders


@contextmanager
def no_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open("/dev/null", os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 1, limits[1]))
    try:
        with suppress(OSError):  # too many open files
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in held:
            os.close(descriptor)


def test_the_supervisor_goes_on_without_descriptors(
    tmp_path: Path, instance: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(
        instance=instance,
        cameras={"cam": {"source": "synthetic"}},
        run_dir=tmp_path,
        state_dir=tmp_path / "state",
    )
    spec = ProcessSpec("part", (sys.executable, "-c", "pass"), 0)
    part = ManagedProcess(spec, tmp_path, OutputReaders().attach, lambda _: None)
    Counters.read(tmp_path / "metrics")  # imports what it needs
    with (
        RunFolder(config, ()) as folder,
        PipelineWatch(config, {"part": part}) as watch,
        FrameWriter(instance, "cam", width=64, height=32) as frames,
        DetectionWriter(instance, "cam"),
    ):
        sampler = TimingsSampler(instance, "cam")
        put_frame(frames, 1)
        part.tick(time.monotonic())
        assert part._process
        part._process.wait()
        with no_descriptors():
            folder.keep()
            watch.look(time.monotonic())
            sampler.look_again()
            sampler.poll()
            part.tick(time.monotonic())
            Counters.read(tmp_path / "metrics")
            with FrameReader(instance, "cam", None) as reader, pytest.raises(ShmError):
                reader.lease_newest()
            assert part.restarts == 0
        assert "part has exited, but cannot be restarted: [Errno 24]" in caplog.text
        part.tick(time.monotonic())
        assert part.restarts == 1
        sampler.close()
        part.stop()
        part.wait(time.monotonic() + 5)
