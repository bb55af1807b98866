"""The supervisor's broker check, systemd notifications, orphaned processes, and folder permissions."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from support.mosquitto import running_mosquitto
from support.waiting import wait_for
from tridetr import paths
from tridetr.config import Config
from tridetr.errors import ConfigError, ForeignFolderError, TridetrError, TritonError
from tridetr.file_lock import FileLock
from tridetr.service import explaining_unwritable_disks
from tridetr.supervisor import disk_checks, orphans, runner
from tridetr.supervisor import pulse as pulse_module
from tridetr.supervisor.broker_pulse import answers
from tridetr.supervisor.process import ManagedProcess
from tridetr.supervisor.process_list import ProcessSpec
from tridetr.supervisor.pulse import SupervisorPulse
from tridetr.supervisor.run_folder import RunFolder
from tridetr.telemetry import heartbeat
from tridetr.telemetry.stderr import OutputReaders
from tridetr.triton.launch import Layout


def test_a_stopped_broker_does_not_answer_although_its_port_is_open(tmp_path: Path) -> None:
    """The embedded broker used to be unwatched: once stopped, it stayed stopped, and no event was published."""
    with running_mosquitto(tmp_path) as broker:
        assert answers("127.0.0.1", broker.port)
        broker.freeze()
        socket.create_connection(("127.0.0.1", broker.port), 1).close()
        assert not answers("127.0.0.1", broker.port, timeout_s=0.3)
        broker.thaw()
        assert answers("127.0.0.1", broker.port)
    assert not answers("127.0.0.1", broker.port, timeout_s=0.3)


def test_another_kind_of_server_is_not_a_broker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        assert not answers("127.0.0.1", listener.getsockname()[1], timeout_s=2)
        thread.join()


def test_a_heartbeat_is_renewed_for_another_process(tmp_path: Path) -> None:
    heartbeat.beat_for(tmp_path, "broker")
    pulse = heartbeat.read(tmp_path, "broker")
    assert pulse is not None
    assert not pulse.starting
    assert 0 <= pulse.age_s < 10


def test_systemd_gets_ready_and_watchdog_notifications(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        monkeypatch.setenv(pulse_module.NOTIFY, str(tmp_path / "notify"))
        monkeypatch.setattr(pulse_module, "EVERY_S", 0.0)
        pulse = SupervisorPulse(tmp_path, [])
        pulse.beat()
        pulse.beat()
        pulse.stopping()
        received = [systemd.recv(64) for _ in range(4)]
    assert received == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"STOPPING=1"]
    pulse.beat()  # without systemd: no error
    beats = heartbeat.read(tmp_path, "supervisor")
    assert beats is not None
    assert not beats.starting


def test_only_a_stopped_orphan_of_this_node_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process does not react to the end of its supervisor; its locks used to block every later run."""
    monkeypatch.setattr(orphans, "GRACE_S", 0.2)

    def sleeper(folder: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, orphans.MARK: orphans.mark(folder, "part")}
        line = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
        process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        return process

    ours, other = sleeper(tmp_path), sleeper(tmp_path / "other")
    try:
        ours.send_signal(signal.SIGSTOP)
        assert [process.pid for process in orphans.find(tmp_path)] == [ours.pid]
        orphans.end(tmp_path)
        assert not psutil.pid_exists(ours.pid)  # ended, and reaped
        assert other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.communicate()


def test_an_own_folder_is_used_and_made_private(tmp_path: Path) -> None:
    folder = paths.private_folder(tmp_path / "run")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert paths.private_folder(folder) == folder


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """A user who created /tmp/tridetr-0-default first used to own the secrets and code written there."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o777)
    os.chown(folder, 12345, 12345)
    with pytest.raises(TridetrError, match="belongs to another user"):
        paths.private_folder(folder)
    link = tmp_path / "link"
    link.symlink_to(paths.private_folder(tmp_path / "mine"))
    os.lchown(link, 12345, 12345)
    with pytest.raises(TridetrError, match="belongs to another user"):
        paths.private_folder(link)


def test_a_world_writable_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(TridetrError, match=r"run_dir .* writable by every user .*chmod 700"):
        paths.private_folder(folder)
    folder.chmod(0o1777)  # like /tmp
    with pytest.raises(TridetrError, match=r"state_dir .*set state_dir to a folder of your own"):
        paths.private_folder(folder, "state_dir")
    folder.chmod(0o770)
    paths.private_folder(folder)


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can mount file systems and give files away"
)
def test_only_in_a_container_may_a_mounted_folder_be_open_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a host, every user could put files into a mounted folder of mode 1777, and they were used."""
    line = ["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(tmp_path)]
    if subprocess.run(line, capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    try:
        with pytest.raises(ForeignFolderError, match=r"state_dir .* writable by every user"):
            paths.private_folder(tmp_path, "state_dir")
        tmp_path.chmod(0o777)
        with pytest.raises(ForeignFolderError, match="can be replaced by every user"):
            paths.private_folder(tmp_path / "run")
        monkeypatch.setenv(paths.CONTAINER, "1")
        tmp_path.chmod(0o2777)  # an emptyDir with fsGroup
        os.chown(tmp_path, 0, 12345)
        paths.private_folder(tmp_path)
        paths.private_folder(tmp_path / "run")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_a_folder_that_a_group_can_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    folder.chmod(0o770)
    os.chown(folder, 0, 12345)
    with pytest.raises(ForeignFolderError, match=r"group 12345 .*chmod 700"):
        paths.private_folder(folder)
    monkeypatch.setenv(paths.CONTAINER, "1")  # a volume with fsGroup
    paths.private_folder(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_with_files_of_another_user_is_refused(tmp_path: Path) -> None:
    """They stay there when a folder that was open to all is closed, as an earlier error message demands."""
    planted = paths.private_folder(tmp_path / "state") / "session.key"
    planted.touch()
    paths.private_folder(planted.parent)
    os.chown(planted, 12345, 12345)
    with pytest.raises(
        ForeignFolderError, match=r"session\.key belongs to another user.*remove it"
    ):
        paths.private_folder(planted.parent, "state_dir")


def test_a_folder_that_others_could_replace_is_refused(tmp_path: Path) -> None:
    parent = tmp_path / "open"
    parent.mkdir()
    parent.chmod(0o777)
    with pytest.raises(TridetrError, match=r"can be replaced by every user .*chmod o-w"):
        paths.private_folder(parent / "run")
    parent.chmod(0o1777)  # like /tmp
    paths.private_folder(parent / "run")
    umask = os.umask(0)
    try:
        assert paths.private_folder(tmp_path / "a" / "b" / "run").parent.stat().st_mode & 0o22 == 0
    finally:
        os.umask(umask)


def test_a_run_folder_that_is_opened_to_others_is_closed_and_a_foreign_one_ends_the_node(
    tmp_path: Path, instance: str
) -> None:
    """Another user who took the name of a removed run folder had his code run by Triton, and nothing showed it."""
    config = Config.model_validate(
        {
            "instance": instance,
            "cameras": {"hall": {"source": "synthetic"}},
            "run_dir": str(tmp_path / "run"),
            "state_dir": str(tmp_path / "state"),
        }
    )
    paths.private_folder(config.run_dir)
    with RunFolder(config, ()) as folder:
        config.run_dir.chmod(0o777)
        folder.keep()
        assert config.run_dir.stat().st_mode & 0o777 == 0o700
        shutil.rmtree(config.run_dir)
        folder.keep()
        assert config.run_dir.stat().st_mode & 0o777 == 0o700
        if os.geteuid() == 0:
            os.chown(config.run_dir, 12345, 12345)
            with pytest.raises(ForeignFolderError, match="belongs to another user"):
                folder.keep()


def test_files_of_the_user_in_the_run_folder_are_kept(tmp_path: Path, instance: str) -> None:
    """With `run_dir: ~`, the folders `metrics` and `triton/models` of the user were removed at each start."""
    config = Config.model_validate(
        {
            "instance": instance,
            "cameras": {"hall": {"source": "synthetic"}},
            "run_dir": str(paths.private_folder(tmp_path / "run")),
            "state_dir": str(tmp_path / "state"),
        }
    )
    names = ("metrics/sales.db", "heartbeats/patients.csv", "demo-state/plan.txt")
    kept = [config.run_dir / name for name in names]
    for file in kept:
        file.parent.mkdir()
        file.write_text("a text of the user")
    own = kept[0].with_name("counter_part.db")
    own.touch()
    heartbeat.beat_for(config.run_dir, "part")
    with RunFolder(config, ()) as folder:
        folder.clean()
        assert [path for path in kept if not path.exists()] == []
        assert not own.exists()
        assert list(kept[1].parent.iterdir()) == [kept[1]]
        for file in kept:
            file.unlink()
        (config.run_dir / "demo-state" / "controller.lock").touch()
        folder.clean()
    assert not any(file.parent.exists() for file in kept)
    model = config.run_dir / "triton" / "models" / "rfdetr_ort"
    model.mkdir(parents=True)
    disk_checks.check_disks(config, ())  # as a program that cleans old files can leave it
    (model / "config.pbtxt").touch()
    with pytest.raises(TridetrError, match=r"such as .*config\.pbtxt\. .*set run_dir"):
        disk_checks.check_disks(config, ())
    for mark in paths.TRITON_MARKS:
        (config.run_dir / "triton" / mark).touch()
        disk_checks.check_disks(config, ())
        (config.run_dir / "triton" / mark).unlink()


def test_processes_inherit_a_configuration_that_nothing_can_change(
    tmp_path: Path, instance: str
) -> None:
    """It was a file in the run folder: one container of a pod could change where another one sends its passwords."""
    config = Config.model_validate(
        {
            "instance": instance,
            "cameras": {"hall": {"source": "rtsp://192.0.2.1/", "credentials_file": "/x"}},
            "run_dir": str(paths.private_folder(tmp_path / "run")),
            "state_dir": str(tmp_path / "state"),
        }
    )
    lines: list[bytes] = []
    code = (
        "import os, sys; from pathlib import Path; from tridetr.config import load_config\n"
        "print(load_config(Path(sys.argv[1])).model_dump_json())\n"
        "try:\n    os.write(os.open(sys.argv[1], os.O_RDWR), b'x')\nexcept PermissionError:\n    print('sealed')"
    )
    with RunFolder(config, ()) as folder:
        argv = (sys.executable, "-c", code, str(folder.config_file))
        spec = ProcessSpec("part", argv, 0, beats=False, may_finish=True)
        output = OutputReaders(lines.append)
        part = ManagedProcess(
            spec,
            config.run_dir,
            output.attach,
            lambda _: None,
            folder.recreate,
            (folder.config_fd,),
        )

        def has_ended() -> bool:
            part.tick(time.monotonic())
            return part.finished

        wait_for(has_ended)
        output.finish()
        assert b"".join(lines).decode().splitlines() == [config.model_dump_json(), "sealed"]
        assert not [path for path in config.run_dir.rglob("*") if path.suffix == ".yaml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
@pytest.mark.parametrize("name", ["", "triton"])
def test_the_server_runs_no_code_from_a_foreign_folder(tmp_path: Path, name: str) -> None:
    run_dir = paths.private_folder(tmp_path / "run")
    files = Layout(run_dir, tmp_path / "state")
    files.check_private()
    os.chown(run_dir / name, 12345, 12345)
    with pytest.raises(TritonError, match="belongs to another user"):
        files.check_private()


def test_a_folder_that_cannot_be_created_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TridetrError, match=r"cannot create run_dir .*: Not a directory"):
        paths.private_folder(tmp_path / "file" / "run")
    if os.access("/proc/self", os.W_OK):
        pytest.skip("this user may write to every file system")
    with pytest.raises(TridetrError, match="cannot create run_dir"):
        paths.private_folder(Path("/proc/self/tridetr"))


def test_the_default_run_folder_is_not_removed_for_its_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in /tmp are removed after ten days, and services have no XDG_RUNTIME_DIR."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    found = paths.default_run_dir("home")
    assert found.name in ("tridetr-home", f"tridetr-{os.geteuid()}-home")
    if os.access("/run", os.W_OK):
        assert found == Path("/run/tridetr-home")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/dev/shm")
    assert paths.default_run_dir("home") == Path("/dev/shm/tridetr-home")


def test_the_default_run_folder_outlives_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """logind removes /run/user/UID at the last logout, and only root can create it again."""
    of_login = f"/run/user/{os.geteuid()}"
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) == of_login)
    monkeypatch.setattr(paths, "_LINGER", tmp_path)
    for variable in (of_login, ""):
        monkeypatch.setenv("XDG_RUNTIME_DIR", variable)
        (tmp_path / pwd.getpwuid(os.geteuid()).pw_name).unlink(missing_ok=True)
        assert not paths.default_run_dir("home").is_relative_to(of_login)
        (tmp_path / pwd.getpwuid(os.geteuid()).pw_name).touch()
        assert paths.default_run_dir("home") == Path(of_login, "tridetr-home")


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="no systemd-tmpfiles here")
def test_a_guarded_folder_is_not_removed_for_its_age(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "metrics").mkdir(parents=True)
    old, deep = run / "config.yaml", run / "metrics" / "counter.db"
    rules = tmp_path / "rules.conf"
    rules.write_text(f"e {tmp_path} - - - 1s\n")

    def clean() -> None:
        for file in (old, deep):
            file.touch()
        time.sleep(1.1)
        subprocess.run(["systemd-tmpfiles", "--clean", rules], check=True, capture_output=True)

    with paths.FolderGuard(run):
        clean()
        assert old.exists()
        assert deep.exists()
    clean()
    assert not old.exists()


@pytest.mark.parametrize("full", [True, False])
def test_a_removed_heartbeat_is_recreated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(heartbeat, "_LOOK_NS", 0)
    heartbeat.start(tmp_path, "part")
    heartbeat.beat()
    shutil.rmtree(tmp_path / "heartbeats")
    if full:  # only an empty file can be created
        with monkeypatch.context() as disk:
            disk.setattr(os, "posix_fallocate", no_space)
            heartbeat.beat()
    heartbeat.beat()
    pulse = heartbeat.read(tmp_path, "part")
    assert pulse is not None
    assert not pulse.starting


def test_a_state_disk_that_does_not_answer_does_not_keep_a_node_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(disk_checks, "WAIT_S", 0.0)
    monkeypatch.setattr(disk_checks, "state_folder", lambda *_, **_options: answers.wait(60))
    config = Config.model_validate(
        {"cameras": {"hall": {"source": "synthetic"}}, "state_dir": tmp_path / "state"}
    )
    disk_checks.check_disks(config, ())
    answers.set()
    assert f"({tmp_path / 'state'}) does not answer" in caplog.text


@pytest.mark.parametrize(
    ("key", "name"), [("state_dir", "controller.lock"), ("evidence.path", "recorder.lock")]
)
def test_a_folder_that_another_node_uses_ends_the_start(
    tmp_path: Path, key: str, name: str
) -> None:
    """The controller or recorder was restarted again and again."""
    config = Config.model_validate(
        {
            "cameras": {"hall": {"source": "synthetic"}},
            "state_dir": tmp_path,
            "evidence": {"path": tmp_path},
        }
    )
    disk_checks.check_disks(config, ())
    assert not list(tmp_path.iterdir())
    with FileLock(tmp_path / name, "process 123"):
        with pytest.raises(TridetrError, match=rf"\(process 123\) uses {key} {tmp_path}: stop it"):
            disk_checks.check_disks(config, ())
        disk_checks.check_disks(config, ("controller",))  # of a pod that is being replaced
    disk_checks.check_disks(config, ())


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    """With a full run folder, each process ended with a traceback."""
    config = Config.model_validate(
        {"cameras": {"hall": {"source": "synthetic"}}, "run_dir": tmp_path, "state_dir": "/gone"}
    )
    expected = rf"No space left .* Free some space in run_dir {tmp_path} \([\d,]+ KiB free\)$"
    with (
        pytest.raises(TridetrError, match=expected),
        explaining_unwritable_disks(config),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
    with (
        pytest.raises(TridetrError, match=r"cannot write f: Read-only file system; check the disk"),
        explaining_unwritable_disks(config),
    ):
        raise OSError(errno.EROFS, "Read-only file system", "f")
    with pytest.raises(FileNotFoundError), explaining_unwritable_disks(config):
        Path("/gone").stat()


def test_a_password_without_a_user_name_is_refused_at_the_start(
    instance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller ended at each start, with the same message."""
    monkeypatch.setenv("TRIDETR_MQTT_PASSWORD", "password")
    monkeypatch.setattr(runner, "stop_signals", list)
    config = Config.model_validate(
        {
            "instance": instance,
            "cameras": {"cam": {"source": "synthetic"}},
            "run_dir": tmp_path / "run",
            "state_dir": tmp_path / "state",
        }
    )
    with pytest.raises(ConfigError, match=r"set mqtt\.username"):
        runner.Supervisor(config).run(1.0)
