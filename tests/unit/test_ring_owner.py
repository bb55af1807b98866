"""Rings and queues that another user of the machine created first, under tridetr's names and open to all."""

from __future__ import annotations

import os
from pathlib import Path

import posix_ipc
import pytest

from support.rings import put_frame
from tridetr.errors import ShmError
from tridetr.shm.boards import CameraState, CameraStatus, StatusReader, StatusWriter
from tridetr.shm.frames import FrameReader, FrameWriter
from tridetr.shm.names import (
    CONSUMERS,
    SHM_DIR,
    RingName,
    close_triton_regions,
    list_instance,
    remove_triton_regions,
    triton_region_prefix,
    unlink_instance,
)
from tridetr.shm.wakeup import Wakers, Wakeup

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
SOMEBODY = 12345


def foreign(path: Path) -> None:
    path.touch()
    os.chown(path, SOMEBODY, SOMEBODY)
    path.chmod(0o666)


def test_a_foreign_ring_is_neither_written_nor_read(instance: str) -> None:
    """It was taken over like tridetr's own, and its owner could see every picture."""
    StatusWriter(instance, "cam").close()
    ring = RingName(instance, "cam", "status")
    foreign(ring.path(1))
    with StatusReader(instance, "cam") as reader, pytest.raises(ShmError, match="another user"):
        reader.read()
    with StatusWriter(instance, "cam") as writer, StatusReader(instance, "cam") as reader:
        assert ring.generations() == [2]
        writer.write(CameraStatus(CameraState.LIVE, 0, 0))
        read = reader.read()
        assert read is not None
        assert read.state is CameraState.LIVE


def test_later_generations_of_another_user_stop_neither_a_restart_nor_a_new_size(
    instance: str,
) -> None:
    """Processes of a running node never came back once another user had taken the names that they would use next."""
    ring = RingName(instance, "cam", "frames")
    with FrameWriter(instance, "cam", width=64, height=32) as first:
        for generation in (2, 3, 99, 9_999_999_999):
            foreign(ring.path(generation))
        region = f"{triton_region_prefix(instance)}0c6e"
        foreign(SHM_DIR / region)
        with FrameReader(instance, "cam", None) as reader:
            put_frame(first, 1)
            with reader.lease_newest() or pytest.fail("no frame") as frame:
                assert frame.sequence == 1
            first.close()
            with FrameWriter(instance, "cam", width=64, height=32) as again:
                assert ring.generations() == [1]
                put_frame(again, 2)
            with FrameWriter(instance, "cam", width=128, height=64) as larger:
                put_frame(larger, 3)
                with reader.lease_newest() or pytest.fail("no frame") as frame:
                    assert frame.sequence == 3
            assert ring.generations() == [4]
    assert close_triton_regions(instance) == []
    assert remove_triton_regions(instance) == []
    unlink_instance(instance, ["cam"])
    assert not list_instance(instance), "root can remove them"


def test_files_of_another_user_do_not_stop_a_start_without_root(instance: str) -> None:
    ring = RingName(instance, "cam", "status")
    foreign(ring.path(1))
    pid = os.fork()
    if pid == 0:
        os.setuid(SOMEBODY + 1)
        unlink_instance(instance, ["cam"])
        StatusWriter(instance, "cam").close()
        done = ring.generations() == [2]
        unlink_instance(instance, ["cam"])
        os._exit(0 if done and not ring.generations() else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert list_instance(instance) == [ring.path(1)]


def test_a_foreign_queue_is_refused(instance: str) -> None:
    name = RingName(instance, "cam", "frames").queue(CONSUMERS["frames"][0])
    pid = os.fork()
    if pid == 0:  # as the other user
        os.setuid(SOMEBODY)
        os.umask(0)
        made = posix_ipc.MessageQueue(
            name, posix_ipc.O_CREX, 0o666, max_messages=1, max_message_size=16
        )
        made.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    with pytest.raises(ShmError, match="another user"):
        Wakeup(name)
    with pytest.raises(ShmError, match="another user"):
        Wakers([name])
