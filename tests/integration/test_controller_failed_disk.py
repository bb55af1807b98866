"""The controller starts although the disk of its state folder fails: a card that died, a share that is gone."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.mosquitto import listening, running_mosquitto
from support.sentry import EMPTY, PERSON, running_controller
from support.small_disks import Ext4Disk, mounted_ext4
from support.state_database import event_row
from support.waiting import wait_for
from tridetr import paths
from tridetr.config import Config
from tridetr.controller import state_files
from tridetr.controller.history import FOLDER_LOCK
from tridetr.controller.state_files import StoreError, kind_and_remedy
from tridetr.controller.store import Store
from tridetr.errors import TridetrError
from tridetr.supervisor import disk_checks
from tridetr.write_check import DEVICE_ERRORS, disk_remedy

DEVICE = [errno.EIO, errno.ENODEV, errno.ENXIO, errno.EREMOTEIO, errno.EUCLEAN, errno.ESTALE]
SHARE = [errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT]
CONFIGURATION = [errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Ext4Disk]:
    with mounted_ext4(tmp_path) as disk:
        yield disk


def stored(folder: Path) -> None:
    """Leave an event in a database."""
    store = Store(folder, outbox_limit=1000)
    store.commit("hall", '"before"', [event_row(0)])
    store.close()


def test_a_store_starts_on_a_failed_disk_and_saves_when_it_returns(disk: Ext4Disk) -> None:
    folder = disk.folder / "state"
    stored(folder)
    disk.fail()
    store = Store(folder, outbox_limit=1000)
    assert "Input/output error" in store.fault
    store.commit("hall", '"meanwhile"', [event_row(1)])
    assert "visit1:arrived" in store.outbox
    disk.mount_again()
    assert store.flush()
    assert (store.fault, store.is_loaded) == ("", True)
    store.close()
    again = Store(folder, outbox_limit=1000)
    assert list(again.outbox) == ["visit0:arrived", "visit1:arrived"]
    assert again.cameras["hall"].record == '"meanwhile"'
    again.close()


def test_a_controller_that_is_restarted_on_a_failed_disk_raises_alarms(
    tmp_path: Path, disk: Ext4Disk
) -> None:
    """It ended at once, every five seconds, and nobody watched the cameras."""
    state: dict[str, Any] = {"state_dir": str(disk.folder / "state")}
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path / "node", {"port": broker.port}, **state) as (
            controller,
            actor,
        ),
    ):
        wait_for(lambda: ear.last("/availability") == b"online")
        actor.show_and_wait(EMPTY)
        controller.kill()
        disk.fail()
        controller.start()
        process = controller.process
        assert process is not None
        wait_for(lambda: process.poll() is not None or _shown(actor, ear))
        assert process.poll() is None, controller.log()
        assert [event["kind"] for event in ear.events()] == ["person_arrived"]
        wait_for(lambda: b"Input/output error" in (ear.last("/node1/problem") or b""))


def _shown(actor: Any, ear: Any) -> bool:
    actor.show(PERSON)
    return bool(ear.events())


def test_a_node_starts_on_a_failed_disk(disk: Ext4Disk) -> None:
    config = config_of(disk.folder)
    stored(config.state_dir)
    disk.fail()
    disk_checks.check_disks(config, ())


def config_of(folder: Path) -> Config:
    return Config.model_validate(
        {
            "cameras": {"hall": {"source": "synthetic"}},
            "run_dir": str(folder / "run"),
            "state_dir": str(folder / "state"),
        }
    )


def raising(code: int) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code), "a file")

    return fail


@pytest.mark.parametrize("code", [*DEVICE, *SHARE])
def test_a_device_that_fails_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    stored(tmp_path / "state")
    with monkeypatch.context() as patch:
        patch.setattr(state_files, "FileLock", raising(code))
        store = Store(tmp_path / "state", outbox_limit=1000)
        assert os.strerror(code) in store.fault
        assert list(store.outbox) == ["visit0:arrived"], "the file can be read"
    assert store.flush()
    store.close()
    assert code in DEVICE_ERRORS
    assert "dmesg" in disk_remedy(OSError(code, ""))
    assert "dmesg" in kind_and_remedy(OSError(code, ""))[1]


@pytest.mark.parametrize("code", CONFIGURATION)
def test_a_state_folder_that_can_never_be_used_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(state_files, "FileLock", raising(code))
        with pytest.raises(StoreError, match=r"state_dir .* cannot be used"):
            Store(tmp_path / "state", outbox_limit=1000)
    monkeypatch.setattr(paths, "refuse_other_users", raising(code))
    with pytest.raises(StoreError, match="cannot create state_dir"):
        Store(tmp_path / "state", outbox_limit=1000)
    with pytest.raises(TridetrError, match="cannot create state_dir"):
        disk_checks.check_disks(config_of(tmp_path), ())


@pytest.mark.parametrize("code", [*DEVICE, *SHARE])
def test_a_folder_whose_owner_is_unknown_is_not_used(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
) -> None:
    """It may be another user's, with invented events."""
    folder = tmp_path / "state"
    stored(folder)
    (folder / FOLDER_LOCK).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(paths, "refuse_other_users", raising(code))
        disk_checks.check_disks(config_of(tmp_path), ())
        assert "starting without it" in caplog.text
        with pytest.raises(TridetrError, match=os.strerror(code)):
            paths.private_folder(folder)
        store = Store(folder, outbox_limit=1000)
        store.commit("hall", '"meanwhile"', [event_row(1)])
        assert os.strerror(code) in store.fault
        assert list(store.outbox) == ["visit1:arrived"]
        assert not (folder / FOLDER_LOCK).exists()
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
        assert not store.flush()
        assert "belongs to another user" in store.fault
        assert list(store.outbox) == ["visit1:arrived"]
        os.chown(folder, 0, 0)
    assert store.flush()
    assert list(store.outbox) == ["visit0:arrived", "visit1:arrived"]
    store.close()


def test_a_folder_that_is_checked_again_in_vain_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is locked, then its owner becomes unknown before the database is opened."""
    folder = tmp_path / "state"
    stored(folder)
    lock = state_files.lock_folder
    with monkeypatch.context() as patch:

        def lock_folder(path: Path) -> Any:
            found = lock(path)
            patch.setattr(paths, "refuse_other_users", raising(errno.EIO))
            return found

        patch.setattr("tridetr.controller.store.lock_folder", lock_folder)
        store = Store(folder, outbox_limit=1000)
        assert "Input/output error" in store.fault
        assert list(store.outbox) == []
    assert store.flush()
    assert list(store.outbox) == ["visit0:arrived"]
    store.close()


def test_an_unknown_list_of_files_is_a_fault_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``access`` refuses a folder whose disk fails, too: the owners of its files counted as checked."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "scandir", raising(errno.EIO))
    with pytest.raises(paths.UncheckedFolderError):
        paths.state_folder(tmp_path)
