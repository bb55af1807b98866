"""Wake-ups of a ring's readers, and the limits of message queues."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest

from support.rings import frame_writer, put_frame, wakeup_of
from tridetr.errors import ShmError
from tridetr.shm.frames import FrameReader
from tridetr.shm.wakeup import Wakeup


def test_a_queue_holds_one_wakeup(instance: str) -> None:
    with frame_writer(instance) as writer, FrameReader(instance, "cam", "gateway") as reader:
        assert not wakeup_of(reader).wait(0)
        for value in range(5):  # nothing reads: the writer must not be affected
            put_frame(writer, value)
        assert wakeup_of(reader).wait(1)
        assert not wakeup_of(reader).wait(0)
        put_frame(writer, 9)
        assert wakeup_of(reader).drain()
        assert not wakeup_of(reader).drain()


def test_only_the_named_consumers_are_woken(instance: str) -> None:
    with (
        frame_writer(instance, consumers=("gateway",)) as writer,
        FrameReader(instance, "cam", "gateway") as gateway,
        FrameReader(instance, "cam", "detector") as detector,
    ):
        put_frame(writer, 1)
        assert wakeup_of(gateway).wait(1)
        assert not wakeup_of(detector).wait(0)


async def test_asyncio_is_woken(instance: str) -> None:
    loop = asyncio.get_running_loop()
    with FrameReader(instance, "cam", "detector") as reader:  # the queue exists before the ring
        woken = asyncio.Event()

        def wake() -> None:
            wakeup_of(reader).drain()
            woken.set()

        loop.add_reader(wakeup_of(reader).fileno(), wake)
        try:
            with frame_writer(instance) as writer:
                for value in range(3):
                    put_frame(writer, value)
                    await asyncio.wait_for(woken.wait(), 5)
                    woken.clear()
        finally:
            loop.remove_reader(wakeup_of(reader).fileno())


@pytest.mark.parametrize(
    ("code", "match"),
    [(errno.ENOSPC, "queues_max"), (errno.EMFILE, "RLIMIT_MSGQUEUE"), (errno.EIO, "Input/output")],
)
def test_queue_limits_are_named(monkeypatch: pytest.MonkeyPatch, code: int, match: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("posix_ipc.MessageQueue", fail)
    with pytest.raises(ShmError, match=match):
        Wakeup("/tridetr-t-cam-frames-gateway")
