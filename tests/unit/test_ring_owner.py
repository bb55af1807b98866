"""Rings and queues that another user of the machine created first, under tridetr's names and open to all."""

from __future__ import annotations

import os

import posix_ipc
import pytest

from tridetr.errors import ShmError
from tridetr.shm.boards import StatusReader, StatusWriter
from tridetr.shm.names import CONSUMERS, RingName
from tridetr.shm.wakeup import Wakers, Wakeup

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
SOMEBODY = 12345


def test_a_foreign_ring_is_neither_written_nor_read(instance: str) -> None:
    """It was taken over like tridetr's own, and its owner could see every picture."""
    StatusWriter(instance, "cam").close()
    path = RingName(instance, "cam", "status").path(1)
    os.chown(path, SOMEBODY, SOMEBODY)
    path.chmod(0o666)
    with pytest.raises(ShmError, match="belongs to another user"):
        StatusWriter(instance, "cam")
    with StatusReader(instance, "cam") as reader, pytest.raises(ShmError, match="another user"):
        reader.read()


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
