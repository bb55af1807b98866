"""The supervisor: process planning, restarts after a crash or hang, stopping, heartbeats."""

from __future__ import annotations

import errno
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tridetr.config.load import parse_config
from tridetr.errors import ConfigError, ShmError
from tridetr.shm.detections import DetectionReader
from tridetr.supervisor import process as process_module
from tridetr.supervisor.process import ManagedProcess
from tridetr.supervisor.process_list import ProcessSpec, plan_processes
from tridetr.supervisor.summary import percentiles_ms
from tridetr.supervisor.timings import TimingsSampler
from tridetr.telemetry import heartbeat
from tridetr.telemetry.stderr import OutputReaders


def until(condition: Callable[[], bool], managed: ManagedProcess, within_s: float = 15) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        managed.tick(time.monotonic())
        time.sleep(0.01)


def managed(
    tmp_path: Path, code: str, *, beats: bool = False, may_finish: bool = False
) -> ManagedProcess:
    spec = ProcessSpec("part", (sys.executable, "-c", code), 0, beats=beats, may_finish=may_finish)
    return ManagedProcess(spec, tmp_path, OutputReaders().attach, lambda _: None)


def test_plan_follows_the_configuration() -> None:
    text = """
cameras:
  a: {source: synthetic}
  b: {source: clip.mp4, loop: false}
mqtt: {host: embedded, port: 0}
"""
    config = parse_config(text, origin=Path("x.yaml"))
    specs = {spec.name: spec for spec in plan_processes(config, Path("x.yaml"))}
    assert list(specs) == [
        "broker", "triton", "capture a", "capture b", "detector", "controller", "gateway"
    ]  # fmt: skip
    assert [name for name, spec in specs.items() if spec.may_finish] == ["capture b"]
    stages = [specs[name].stop_stage for name in ("capture a", "detector", "controller", "broker")]
    assert stages == sorted(set(stages)), "what is upstream stops first"
    assert [name for name, spec in specs.items() if spec.delay_s] == ["gateway"], (
        "the first result does not need it"
    )
    (alone,) = plan_processes(config, Path("x.yaml"), only=["gateway"])
    assert not alone.delay_s, "in a separate container"
    on_gpu = [spec.name for spec in plan_processes(config, Path("x.yaml"), gpu=True)]
    assert on_gpu[1:3] == ["triton", "gpu"]
    assert [spec.name for spec in plan_processes(config, Path("x.yaml"), only=["gpu"])] == ["gpu"]
    external = parse_config(text + "triton: {url: 'h:8001'}", origin=Path("x.yaml"))
    assert "triton" not in [spec.name for spec in plan_processes(external, Path("x.yaml"))]
    only = plan_processes(config, Path("x.yaml"), only=["capture b"])
    assert [spec.name for spec in only] == ["capture b"]
    for text_of, recorded in ((text + "evidence: {}", True), (text + "evidence: null", False)):
        names = [s.name for s in plan_processes(parse_config(text_of, origin=Path("x")), Path("x"))]
        assert ("recorder" in names) is recorded
    with pytest.raises(ConfigError, match="capture c"):
        plan_processes(config, Path("x.yaml"), only=["capture c"])


def test_percentiles_of_nothing_are_none() -> None:
    assert percentiles_ms([]) == {"p50": None, "p95": None}
    assert percentiles_ms([1.0, 2.0, 3.0])["p50"] == 2.0


def test_a_full_disk_does_not_end_the_supervisor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    spec = ProcessSpec("part", (sys.executable, "-c", "raise SystemExit(3)"), 0, beats=False)
    part = ManagedProcess(spec, tmp_path, OutputReaders().attach, lambda _: None, full)
    until(lambda: part.restarts >= 1, part)
    assert "part: [Errno 28] No space left on device" in caplog.text
    part.stop()
    part.wait(time.monotonic() + 5)


def test_processes_get_only_the_secrets_that_they_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIDETR_GATEWAY_TOKEN", "token")
    monkeypatch.setenv("TRIDETR_MQTT_PASSWORD", "password")
    code = "import os; print(*(name for name in os.environ if name.startswith('TRIDETR_')))"
    found = {}
    for name in ("gateway", "controller", "broker"):
        lines: list[bytes] = []
        output = OutputReaders(lines.append)
        spec = ProcessSpec(name, (sys.executable, "-c", code), 0, beats=False, may_finish=True)
        part = ManagedProcess(spec, tmp_path, output.attach, lambda _: None)
        until(partial(getattr, part, "finished"), part)
        output.finish()
        found[name] = {word for word in b"".join(lines).decode().split() if "_NODE" not in word}
    both = {"TRIDETR_SUPERVISED"}
    assert found == {
        "gateway": both | {"TRIDETR_GATEWAY_TOKEN"},
        "controller": both | {"TRIDETR_MQTT_PASSWORD"},
        "broker": both,
    }


def test_a_process_that_dies_is_restarted(tmp_path: Path) -> None:
    part = managed(tmp_path, "raise SystemExit(3)")
    until(lambda: part.restarts >= 2, part)
    part.stop()
    part.wait(time.monotonic() + 5)


def test_a_process_that_may_finish_and_exits_with_0_is_not_restarted(tmp_path: Path) -> None:
    part = managed(tmp_path, "pass", may_finish=True)
    until(lambda: part.finished, part)
    assert part.restarts == 0


def test_a_process_without_progress_is_killed_and_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "HANG_S", 0.3)
    beat_once = (
        "import sys, time; from pathlib import Path; from tridetr.telemetry import heartbeat;"
        f"heartbeat.start(Path({str(tmp_path)!r}), 'part'); heartbeat.beat(); time.sleep(600)"
    )
    part = managed(tmp_path, beat_once, beats=True)
    until(lambda: part.restarts >= 1, part, within_s=30)
    part.stop()
    part.wait(time.monotonic() + 5)


def test_old_heartbeats_after_a_pause_of_the_supervisor_do_not_kill_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ten seconds of SIGSTOP, it used to kill the broker, whose heartbeat it renews itself."""
    part = managed(tmp_path, "import time; time.sleep(600)", beats=True)
    began_s = time.monotonic()
    part.tick(began_s)
    monkeypatch.setattr(part, "_launched_s", began_s - 60)
    monkeypatch.setattr(heartbeat, "read", lambda *_: heartbeat.Pulse(60.0, starting=False))
    back_s = began_s + 60
    for tenth in range(round(process_module.HANG_S * 10)):
        part.tick(back_s + tenth / 10)
    assert part.pid
    part.tick(back_s + process_module.HANG_S + 0.1)
    until(lambda: part.restarts == 1, part)
    part.stop()
    part.wait(time.monotonic() + 5)


def test_a_removed_heartbeat_is_not_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a cleaner removed the files, all processes that had run for a minute used to be killed."""
    part = managed(tmp_path, "import time; time.sleep(600)", beats=True)
    now_s = time.monotonic()
    part.tick(now_s)
    heartbeat.beat_for(tmp_path, "part")
    later_s = now_s + 2 * process_module.START_S
    monkeypatch.setattr(part, "_ticked_s", later_s)
    part.tick(later_s)
    heartbeat.forget(tmp_path, "part")
    for second in range(round(process_module.HANG_S)):
        part.tick(later_s + second)
    assert part.pid
    part.tick(later_s + process_module.HANG_S + 1)
    until(lambda: part.restarts == 1, part)
    part.stop()
    part.wait(time.monotonic() + 5)


def test_a_heartbeat_that_cannot_be_read_is_neither_a_hang_nor_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One file with mode 000 used to end the supervisor, and with it the node."""
    part = managed(tmp_path, "import time; time.sleep(600)", beats=True)
    now_s = time.monotonic()
    part.tick(now_s)

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(heartbeat, "read", refuse)
    monkeypatch.setattr(process_module, "AWAY_S", math.inf)
    for second in range(0, 300, 10):
        part.tick(now_s + second)
        assert part.up_s(now_s + second) == 0
    assert part.pid
    assert part.restarts == 0
    assert "cannot read the heartbeat" in caplog.text
    part.stop()
    part.wait(time.monotonic() + 5)


def test_the_heartbeat_of_an_earlier_process_does_not_count_for_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a read-only disk it could not be removed, and each successor was killed 0.1 s after its start."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    code = (
        "import time; from pathlib import Path; from tridetr.telemetry import heartbeat;"
        f"heartbeat.start(Path({str(tmp_path)!r}), 'part'); heartbeat.beat()"
    )
    part = managed(tmp_path, code + "; time.sleep(600)", beats=True)
    until(lambda: part.up_s(time.monotonic()) > 0, part)
    monkeypatch.setattr(heartbeat, "forget", refuse)
    part.replace("a test")
    monkeypatch.setattr(process_module, "HANG_S", 0.3)
    part.spec = replace(part.spec, argv=(sys.executable, "-c", "import time; time.sleep(600)"))
    until(lambda: part.restarts == 1 and part.pid is not None, part)
    began_s = time.monotonic()
    until(lambda: time.monotonic() > began_s + 1, part)
    assert part.restarts == 1
    assert part.up_s(time.monotonic()) == 0
    # Later, it is killed only if it could have written its own
    started_s = time.monotonic() + process_module.START_S
    with monkeypatch.context() as patched:
        patched.setattr(process_module, "check_writable", refuse)
        patched.setattr(process_module, "AWAY_S", math.inf)
        for second in range(0, 300, 5):
            part.tick(started_s + second)
        assert part.up_s(started_s + 300) > 0
        assert part.pid
        assert part.restarts == 1
        until_s = started_s + 300
        patched.setattr(process_module, "check_writable", lambda _: None)
        part.tick(until_s + process_module.START_S + 1)
    until(lambda: part.restarts == 2, part)
    part.stop()
    part.wait(time.monotonic() + 5)


def test_a_heartbeat_without_space_is_written_once_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ended at its start."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("tridetr.telemetry.heartbeat.os.posix_fallocate", full)
        heartbeat.start(tmp_path, "part")
        heartbeat.beat()
        assert heartbeat.read(tmp_path, "part") is None
    monkeypatch.setattr(heartbeat, "_LOOK_NS", 0)
    monkeypatch.setattr(heartbeat, "_look_ns", 0)
    heartbeat.beat()
    pulse = heartbeat.read(tmp_path, "part")
    assert pulse is not None
    assert not pulse.starting


def managed_with_child(tmp_path: Path) -> tuple[ManagedProcess, Path]:
    """Return a process that has started a child in another session, and the child's file in /proc."""
    pid_file = tmp_path / "pid"
    code = (
        "import subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        "start_new_session=True);"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )
    part = managed(tmp_path, code)
    until(lambda: pid_file.exists() and bool(pid_file.read_text()), part)
    child = Path(f"/proc/{pid_file.read_text()}/stat")
    return part, child


def test_stopping_kills_the_children_of_the_process(tmp_path: Path) -> None:
    part, child = managed_with_child(tmp_path)
    part.stop()
    part.wait(time.monotonic() + 5)
    until(lambda: not child.exists() or child.read_text().split(")")[1].split()[0] == "Z", part)


def test_the_children_of_a_killed_process_do_not_outlive_it(tmp_path: Path) -> None:
    """Each kill of Triton's watcher used to leave a process of the Python backend running."""
    part, child = managed_with_child(tmp_path)
    assert part.pid
    os.kill(part.pid, signal.SIGKILL)
    until(lambda: part.restarts == 1, part)
    assert not child.exists() or child.read_text().split(")")[1].split()[0] == "Z"
    part.stop()
    part.wait(time.monotonic() + 5)


def test_a_process_before_its_main_loop_is_given_time_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A camera whose source took longer to open than the hang limit used to be killed again and again."""
    monkeypatch.setattr(process_module, "HANG_S", 0.0)
    started = tmp_path / "heartbeats" / "part"
    code = (
        "import time; from pathlib import Path; from tridetr.telemetry import heartbeat;"
        f"heartbeat.start(Path({str(tmp_path)!r}), 'part'); time.sleep(600)"
    )
    part = managed(tmp_path, code, beats=True)
    until(lambda: started.exists() and started.stat().st_size > 0, part, within_s=30)
    began_s = time.monotonic()
    for second in range(round(process_module.START_S) - 30):
        part.tick(began_s + second)
    assert part.pid
    for second in range(round(process_module.START_S) + 2):
        part.tick(began_s + second)
    until(lambda: part.restarts == 1, part)
    part.stop()
    part.wait(time.monotonic() + 5)


def test_a_killed_process_that_waits_for_a_disk_is_reported_once_and_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel ends it only when the disk answers."""
    monkeypatch.setattr(process_module, "HANG_S", 0.0)
    monkeypatch.setattr(process_module, "_KILL_S", 0.0)
    monkeypatch.setattr(heartbeat, "read", lambda *_: heartbeat.Pulse(60.0, starting=False))
    part = managed(tmp_path, "import time; time.sleep(600)", beats=True)
    now_s = time.monotonic()
    part.tick(now_s)
    monkeypatch.setattr(part, "_launched_s", now_s - 60)
    child = part._process
    assert child is not None
    kill = child.kill
    monkeypatch.setattr(child, "kill", lambda: None)
    monkeypatch.setattr(child, "terminate", lambda: None)
    for tick in range(1, 5):
        part.tick(now_s + tick)
    assert sum("no progress" in record.message for record in caplog.records) == 1
    part.stop()
    part.wait(now_s)
    assert "part was killed, but waits for a disk that does not answer" in caplog.text
    kill()
    child.wait(10)


def test_heartbeat_ages_and_is_forgotten(tmp_path: Path) -> None:
    assert heartbeat.read(tmp_path, "capture hall") is None
    heartbeat.start(tmp_path, "capture hall")
    pulse = heartbeat.read(tmp_path, "capture hall")
    assert pulse is not None
    assert pulse.starting
    assert 0 <= pulse.age_s < 5
    heartbeat.beat()
    pulse = heartbeat.read(tmp_path, "capture hall")
    assert pulse is not None
    assert not pulse.starting
    heartbeat.forget(tmp_path, "capture hall")
    assert heartbeat.read(tmp_path, "capture hall") is None


def test_a_real_time_signal_is_named_by_its_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Python only names the first and the last one; for others, the supervisor used to end with a ValueError."""
    number = signal.SIGRTMIN + 3
    part = managed(tmp_path, f"import os; os.kill(os.getpid(), {number})")
    until(lambda: part.restarts >= 1, part)
    assert f"was killed by signal {number}" in caplog.text
    part.stop()
    part.wait(time.monotonic() + 5)


def test_a_process_that_cannot_be_started_now_is_started_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no memory or process id is left, the other processes must keep running."""
    part = managed(tmp_path, "import time; time.sleep(60)")
    with monkeypatch.context() as patched:
        patched.setattr("tridetr.supervisor.process.subprocess.Popen", _refuse)
        part.tick(time.monotonic())
    assert part.pid is None
    try:
        until(lambda: part.pid is not None, part)
    finally:
        part.stop()
        part.wait(time.monotonic() + 5)


def _refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def test_a_ring_that_cannot_be_read_does_not_end_the_supervisor(
    instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example, a file with the ring's name that another user created."""

    def refuse(*_: object) -> None:
        raise ShmError("belongs to another user")

    sampler = TimingsSampler(instance, "cam")
    monkeypatch.setattr(DetectionReader, "lease_next", refuse)
    sampler.poll()
    sampler.close()


def test_the_first_start_can_be_delayed(tmp_path: Path) -> None:
    spec = ProcessSpec("part", (sys.executable, "-c", "import time; time.sleep(60)"), 0, delay_s=5)
    part = ManagedProcess(spec, tmp_path, OutputReaders().attach, lambda _: None)
    now_s = time.monotonic()
    try:
        part.tick(now_s)
        assert part.pid is None
        part.tick(now_s + 5.1)
        assert part.pid is not None
    finally:
        part.stop()
        part.wait(time.monotonic())
