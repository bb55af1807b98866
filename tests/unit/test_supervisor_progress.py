"""Detecting where a camera's frames are stuck, and restarting the process at fault."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from support.rings import put_frame, result_stamp, some_detections
from support.waiting import wait_for
from tridetr.capture.packets import PacketSink
from tridetr.config import Config
from tridetr.config.load import parse_config
from tridetr.probe import fault
from tridetr.shm.boards import (
    CameraState,
    CameraStatus,
    SentryMode,
    SentrySnapshot,
    SentryState,
    SentryWriter,
    StatusWriter,
)
from tridetr.shm.detections import DetectionWriter
from tridetr.shm.frames import FrameWriter
from tridetr.shm.names import RingName
from tridetr.supervisor.process import ManagedProcess
from tridetr.supervisor.process_list import ProcessSpec
from tridetr.supervisor.progress import (
    DECODER_PATIENCE_S,
    PATIENCE_S,
    REPORTED_PATIENCE_S,
    Look,
    PipelineWatch,
    Progress,
    Stage,
)
from tridetr.supervisor.pulse import SupervisorPulse
from tridetr.telemetry import metrics
from tridetr.telemetry.stderr import OutputReaders


def test_a_stage_is_stalled_only_while_it_has_work_to_do() -> None:
    progress = Progress()

    def stalled(now_s: float, *, live: bool, frame: int, result: int, decided: int) -> list[float]:
        found = progress.stalled_s(Look(live, frame, result, decided), now_s)
        return [found[stage] for stage in Stage]

    assert stalled(0, live=False, frame=0, result=0, decided=0) == [0, 0, 0]
    assert stalled(50, live=False, frame=0, result=0, decided=0) == [0, 0, 0]
    assert stalled(51, live=True, frame=1, result=0, decided=0) == [0, 1, 0]
    assert stalled(61, live=True, frame=1, result=0, decided=0) == [10, 11, 0]
    assert stalled(62, live=True, frame=9, result=1, decided=0) == [0, 0, 1]
    assert stalled(72, live=True, frame=19, result=11, decided=0) == [0, 0, 11]
    assert stalled(73, live=False, frame=19, result=19, decided=19) == [0, 0, 0]
    # A recreated ring counts from 1
    assert stalled(74, live=True, frame=2, result=19, decided=19) == [0, 1, 0]
    assert stalled(75, live=True, frame=4, result=2, decided=19) == [0, 0, 1]
    assert stalled(76, live=True, frame=6, result=4, decided=2) == [0, 0, 0]


def test_an_empty_ring_is_no_work() -> None:
    """The detector was restarted when an offline camera's frames were released, and then the controller, again and
    again."""
    progress = Progress()
    stalled = progress.stalled_s
    assert set(stalled(Look(False, 20, 20, 20), 0.0).values()) == {0.0}
    assert set(stalled(Look(False, 0, 20, 20), 300.0).values()) == {0.0}
    assert set(stalled(Look(False, 0, 20, 20), 400.0).values()) == {0.0}
    assert set(stalled(Look(False, 0, 0, 20), 500.0).values()) == {0.0}
    assert set(stalled(Look(False, 0, 0, 20), 600.0).values()) == {0.0}
    # A live camera must publish frames
    assert stalled(Look(True, 0, 0, 20), 700.0)[Stage.FRAMES] == 100.0


def test_the_time_that_a_stage_is_stalled_accumulates() -> None:
    progress = Progress()
    for hours in range(100):
        found = progress.stalled_s(Look(True, 10 * hours + 9, 5, 5), 3600.0 * hours)
        assert found[Stage.RESULTS] == 3600.0 * hours


class Pipeline:
    """The rings of one camera, written by the test, and idle stand-ins for the node's processes."""

    def __init__(self, config: Config, stack: contextlib.ExitStack) -> None:
        self.config = config
        self.killed: set[str] = set()
        instance = config.instance
        self.frames = stack.enter_context(FrameWriter(instance, "cam", width=64, height=32))
        self.results = stack.enter_context(DetectionWriter(instance, "cam"))
        self.board = stack.enter_context(SentryWriter(instance, "cam"))
        self.status = stack.enter_context(StatusWriter(instance, "cam"))
        names = ["capture cam", "detector", "controller", "triton"]
        self.packets: PacketSink | None = None
        if config.cameras["cam"].decode == "gpu":
            names.append("gpu")
            self.packets = stack.enter_context(PacketSink(instance, "cam", config.packets))
            self.packets.open_jpegs(64, 32, 10.0)
        self.processes = {name: self._idle(name, stack) for name in names}
        for name, process in self.processes.items():
            process.tick(0.0)
            pid_of = f"{name} does not beat"
            wait_for(lambda: process.up_s(1.0) > 0, 20, pid_of)
        self.watch = stack.enter_context(PipelineWatch(config, self.processes))

    def _idle(self, name: str, stack: contextlib.ExitStack) -> ManagedProcess:
        code = (
            "import time; from pathlib import Path; from tridetr.telemetry import heartbeat\n"
            f"heartbeat.start(Path({str(self.config.run_dir)!r}), {name!r}); heartbeat.beat()\n"
            "time.sleep(600)"
        )
        spec = ProcessSpec(name, (sys.executable, "-c", code), 0)
        process = ManagedProcess(spec, self.config.run_dir, OutputReaders().attach, lambda _: None)
        process.replace = partial(self._note, name, process.replace)  # type: ignore[method-assign]
        stack.callback(process.wait, 0.0)
        return process

    def _note(self, name: str, replace: Callable[[str], None], why: str) -> None:
        self.killed.add(name)
        replace(why)

    def run(self, *, upto: Stage | None, until_s: float, from_s: float = 0.0) -> list[str]:
        """Publish frames up to the stage before ``upto`` (None: all stages); return the processes killed."""
        self.killed.clear()
        pids = {name: process.pid for name, process in self.processes.items()}
        for now_s in range(int(from_s), int(until_s), 2):
            now_ns = time.monotonic_ns()
            # A camera without pictures is not live
            shown = CameraState.LIVE
            if self.packets is not None:
                self.packets.put_jpeg(memoryview(b"a picture"), now_ns, now_ns)
                shown = CameraState.OFFLINE if upto is Stage.FRAMES else shown
            self.status.write(CameraStatus(shown, 1, now_ns))
            sequence = None
            if upto is not Stage.FRAMES:
                sequence = put_frame(self.frames, 1)
            if sequence and upto is not Stage.RESULTS:
                self.results.publish(result_stamp(sequence - 1), some_detections(1))
                if upto is None:
                    self.board.write(
                        SentrySnapshot(
                            SentryMode.STANDBY, SentryState.STANDBY, 1, "", 1 << 62, sequence
                        )
                    )
            self.watch.look(float(now_s))
        for name in self.killed:
            process, pid = self.processes[name], pids[name]
            wait_for(lambda: process.pid != pid, 20, f"{name} was not killed")
        return [name for name, process in self.processes.items() if process.pid != pids[name]]


@pytest.fixture
def pipeline(instance: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    text = f"""
instance: {instance}
cameras: {{cam: {{source: "rtsp://127.0.0.1/", decode: {getattr(request, "param", "cpu")}}}}}
run_dir: {tmp_path / "run"}
state_dir: {tmp_path / "state"}
"""
    config = parse_config(text, origin=tmp_path / "x.yaml")
    with contextlib.ExitStack() as stack:
        yield Pipeline(config, stack)


def _stalled(stage: Stage) -> float:
    value = metrics.STALLED.labels("cam", stage.value)._value.get()
    return float(value)


@pytest.mark.parametrize(
    ("stage", "culprit"),
    [
        (Stage.FRAMES, "capture cam"),
        (Stage.RESULTS, "detector"),
        (Stage.DECISIONS, "controller"),
    ],
)
def test_only_the_process_at_fault_is_restarted(
    pipeline: Pipeline, stage: Stage, culprit: str, tmp_path: Path
) -> None:
    assert pipeline.run(upto=None, until_s=4 * PATIENCE_S) == []
    SupervisorPulse(tmp_path / "run", [culprit])
    assert fault(culprit, tmp_path / "run", ready=False) is None
    since_s = 4 * PATIENCE_S
    assert pipeline.run(upto=stage, from_s=since_s, until_s=since_s + PATIENCE_S - 4) == []
    assert _stalled(stage) == 0
    restarted = pipeline.run(upto=stage, from_s=since_s + PATIENCE_S - 4, until_s=since_s + 40)
    assert restarted == [culprit]
    assert _stalled(stage) == 1
    time.sleep(0.02)
    progress = fault(culprit, tmp_path / "run", ready=False, max_age_s=0.01)
    assert progress is not None
    pipeline.run(upto=None, from_s=since_s + 40, until_s=since_s + 60)
    assert _stalled(stage) == 0


def test_restarts_that_do_not_help_become_less_frequent(pipeline: Pipeline) -> None:
    """A capture process is not live for a moment after each restart, which must not count as progress."""
    process = pipeline.processes["capture cam"]
    restarts, now_s = [], 0.0
    while now_s < 250:
        pid = process.pid
        if pipeline.run(upto=Stage.FRAMES, from_s=now_s, until_s=now_s + 6):
            restarts.append(now_s)
            process.tick(now_s)
            process.tick(now_s + 6)
            assert process.pid not in (None, pid)
            wait_for(partial(process.up_s, now_s + 7), 20, "it does not beat")
            offline = CameraStatus(CameraState.OFFLINE, 1, time.monotonic_ns())
            pipeline.status.write(offline)
            pipeline.watch.look(now_s + 6)
        now_s += 7
    waits = [later - before for before, later in itertools.pairwise(restarts)]
    assert len(waits) >= 2
    assert all(later > 1.5 * before for before, later in itertools.pairwise(waits))


@pytest.mark.parametrize("pipeline", ["gpu"], indirect=True)
def test_a_gpu_decoder_that_silently_makes_no_pictures_is_restarted(pipeline: Pipeline) -> None:
    assert pipeline.run(upto=None, until_s=20) == []
    since_s = 20.0
    almost_s = since_s + DECODER_PATIENCE_S - 4
    assert pipeline.run(upto=Stage.FRAMES, from_s=since_s, until_s=almost_s) == []
    assert _stalled(Stage.FRAMES) == 0
    assert pipeline.run(upto=Stage.FRAMES, from_s=almost_s, until_s=almost_s + 10) == ["gpu"]
    assert _stalled(Stage.FRAMES) == 1
    pipeline.run(upto=None, from_s=almost_s + 10, until_s=almost_s + 20)
    assert _stalled(Stage.FRAMES) == 0


@pytest.mark.parametrize("pipeline", ["gpu"], indirect=True)
def test_a_gpu_decoder_that_reports_why_is_left_alone_for_minutes(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """A restart does not add support for a codec, and interrupts the other cameras."""
    _set_gauge(tmp_path / "run" / "metrics", "gpu", "DECODER_BLOCKED")
    assert pipeline.run(upto=Stage.FRAMES, until_s=REPORTED_PATIENCE_S - 10) == []
    assert _stalled(Stage.FRAMES) == 1  # shown all the same
    since_s = REPORTED_PATIENCE_S - 10
    assert pipeline.run(upto=Stage.FRAMES, from_s=since_s, until_s=since_s + 30) == ["gpu"]


@pytest.mark.parametrize("pipeline", ["gpu"], indirect=True)
def test_the_gpu_process_is_not_restarted_for_a_camera_that_delivers_nothing(
    pipeline: Pipeline,
) -> None:
    pipeline.packets = None
    assert pipeline.run(upto=Stage.FRAMES, until_s=10) == []
    pipeline.status.write(CameraStatus(CameraState.OFFLINE, 1, time.monotonic_ns()))
    for now_s in range(10, 200, 2):
        pipeline.watch.look(float(now_s))
    assert _stalled(Stage.FRAMES) == 0


def _set_gauge(folder: Path, process: str, gauge: str) -> None:
    """Set a gauge of the camera to 1 in another process."""
    folder.mkdir()
    code = (
        "from pathlib import Path; from tridetr.telemetry.process_files import use_process_files\n"
        f"use_process_files(Path({str(folder)!r}), {process!r})\n"
        f"from tridetr.telemetry import metrics; metrics.{gauge}.labels('cam').set(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_detector_that_reports_an_unavailable_server_is_left_alone_for_minutes(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    _set_gauge(tmp_path / "run" / "metrics", "detector", "DETECTOR_BLOCKED")
    assert pipeline.run(upto=Stage.RESULTS, until_s=100) == []
    assert _stalled(Stage.RESULTS) == 1  # shown all the same
    # Building an engine can take twenty minutes: until the server publishes its address, its own watcher is in charge
    assert pipeline.run(upto=Stage.RESULTS, from_s=100, until_s=REPORTED_PATIENCE_S + 50) == []
    (tmp_path / "run" / "triton.json").touch()
    since_s = REPORTED_PATIENCE_S + 50
    until_s = since_s + REPORTED_PATIENCE_S - 10
    assert pipeline.run(upto=Stage.RESULTS, from_s=since_s, until_s=until_s) == []
    restarted = pipeline.run(upto=Stage.RESULTS, from_s=until_s, until_s=until_s + 30)
    assert restarted == ["triton"]


def test_rings_are_opened_by_name(pipeline: Pipeline) -> None:
    """The detector used to continue in a ring that no other process could find, which went unnoticed."""
    pipeline.run(upto=None, until_s=10)
    RingName(pipeline.config.instance, "cam", "detections").path(1).unlink()
    assert pipeline.watch._eyes["cam"].look().result == 0
