"""Only one node per instance, regardless of its folders; the processes of a pod share the instance."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tridetr.errors import ShmError
from tridetr.file_lock import FileLock, FileLockedError
from tridetr.shm.instance_lock import InstanceLock
from tridetr.shm.names import SHM_DIR, unlink_instance


def _files(instance: str) -> list[str]:
    return sorted(path.name for path in SHM_DIR.glob(f"tridetr-{instance}.*"))


def test_a_second_node_is_refused_and_the_holder_is_named(instance: str, tmp_path: Path) -> None:
    with InstanceLock(instance, tmp_path / "a"):
        for processes in ([], ["detector"]):
            with pytest.raises(ShmError, match=rf"process {os.getpid()} .*run_dir {tmp_path}/a"):
                InstanceLock(instance, tmp_path / "b", processes)
        InstanceLock(instance[:-1], tmp_path).close()  # another instance
    assert not _files(instance)
    InstanceLock(instance, tmp_path / "b").close()


def test_the_processes_of_a_pod_share_an_instance_and_each_is_alone(
    instance: str, tmp_path: Path
) -> None:
    with (
        InstanceLock(instance, tmp_path, ["capture hall"]),
        InstanceLock(instance, tmp_path, ["detector"]),
    ):
        with pytest.raises(ShmError, match="already running"):
            InstanceLock(instance, tmp_path)
        with pytest.raises(ShmError, match="detector"):
            InstanceLock(instance, tmp_path / "other", ["controller", "detector"])
        InstanceLock(instance, tmp_path, ["controller"]).close()  # it is not held
    assert not _files(instance)


def test_a_killed_holder_leaves_no_lock(instance: str, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tridetr.shm.instance_lock import InstanceLock\n"
        f"lock = InstanceLock({instance!r}, Path({str(tmp_path)!r})); print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    line = [sys.executable, "-c", code]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(ShmError, match=f"process {process.pid} "):
            InstanceLock(instance, tmp_path)
        process.kill()
        process.wait()
    InstanceLock(instance, tmp_path).close()
    assert not _files(instance)


def test_locks_of_killed_processes_are_removed_with_the_instance(
    instance: str, tmp_path: Path
) -> None:
    for name in (f"tridetr-{instance}.detector.lock", f"tridetr-{instance}.lock"):
        (SHM_DIR / name).touch()  # as a killed process leaves them
    with InstanceLock(instance, tmp_path, ["controller"]):
        assert unlink_instance(instance) == [f"tridetr-{instance}.detector.lock"]
        with pytest.raises(ShmError, match="controller"):
            InstanceLock(instance, tmp_path, ["controller"])
    assert not _files(instance)


def test_a_removed_lock_is_recreated(instance: str, tmp_path: Path) -> None:
    with InstanceLock(instance, tmp_path) as lock:
        (SHM_DIR / f"tridetr-{instance}.lock").unlink()
        lock.keep()
        with pytest.raises(ShmError, match="already running"):
            InstanceLock(instance, tmp_path)


def test_a_lock_that_another_process_has_taken_is_left_to_it(
    instance: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with InstanceLock(instance, tmp_path) as lock:
        (SHM_DIR / f"tridetr-{instance}.lock").unlink()
        with InstanceLock(instance, tmp_path / "b"):
            lock.keep()
            lock.keep()
            assert len(caplog.records) == 1  # logged once
            assert f"run_dir {tmp_path}/b" in caplog.text
        lock.keep()
        with pytest.raises(ShmError, match="already running"):
            InstanceLock(instance, tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_foreign_lock_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    os.chown(path, 12345, 12345)
    with pytest.raises(PermissionError, match="another user"):
        FileLock(path)


def test_the_error_of_a_held_lock_contains_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock(path, "the first"):
        with pytest.raises(FileLockedError, match="the first"):
            FileLock(path)
        assert path.stat().st_mode & 0o777 == 0o600
    FileLock(path, "the second").close()
    assert path.read_text() == "the second"  # not temporary
