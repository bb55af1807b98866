"""Whether files can be written to the run folder."""

from __future__ import annotations

import contextlib
import errno
import threading
from pathlib import Path

import pytest

from support.waiting import wait_for
from tridetr import write_check
from tridetr.broker import write_address
from tridetr.config.load import parse_config
from tridetr.doctor.system import check_run_folder
from tridetr.write_check import WriteCheck, check_writable


def looked(check: WriteCheck) -> str:
    check.look()
    return check.fault


def test_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        check_writable(tmp_path / "gone")


def test_a_fault_is_reported_until_it_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(code: int, text: str) -> None:
        def check(_: Path) -> None:
            raise OSError(code, text)

        monkeypatch.setattr(write_check, "check_writable", check)

    monkeypatch.setattr(write_check, "EVERY_S", 0.01)
    with contextlib.closing(WriteCheck(tmp_path)) as check:
        refuse(errno.EROFS, "Read-only file system")
        fault = wait_for(lambda: looked(check))
        assert f"run_dir {tmp_path} cannot be written (Read-only file system)" in fault
        assert "check the disk" in fault
        refuse(errno.ENOSPC, "No space left on device")
        wait_for(lambda: "free some space" in looked(check))
        answers = threading.Event()
        monkeypatch.setattr(write_check, "check_writable", lambda _: answers.wait(20))
        wait_for(lambda: "the disk does not answer" in looked(check))
        answers.set()
        wait_for(lambda: not looked(check))
        refuse(errno.ENOENT, "No such file or directory")
        assert not looked(check), "the supervisor creates it"


def test_the_doctor_finds_a_run_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"cameras: {{hall: {{source: synthetic}}}}\nrun_dir: {tmp_path / 'run'}"
    config = parse_config(text, origin=tmp_path / "tridetr.yaml")
    assert not [*check_run_folder(config)]
    (tmp_path / "run").mkdir()
    assert not [*check_run_folder(config)]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tridetr.write_check.os.posix_fallocate", full)
    (finding,) = check_run_folder(config)
    assert (finding.level, finding.remedy) == ("fault", "free some space there")
    assert "No space left" in finding.text


def test_the_broker_starts_without_writing_the_address_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_address(tmp_path, 1883)

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tridetr.broker.write_text", refuse)
    write_address(tmp_path, 1883)
    with pytest.raises(OSError, match="Read-only"):
        write_address(tmp_path, 1884)
