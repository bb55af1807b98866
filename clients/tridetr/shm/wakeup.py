"""Wake-ups: one POSIX message queue per (ring, consumer), with room for a single message.

The writer sends without blocking and ignores a full queue: the reader is about to wake up anyway and reads the newest
slot from the ring's header. So a dead or slow reader costs the writer nothing. The end that starts first creates the
queue.

A queue's name may be removed while both ends have it open (by logind's RemoveIPC, or a cleaner). Each end checks this
about once a second, and then opens the queue of that name, creating it if necessary.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import struct
from collections.abc import Sequence

import posix_ipc

from tridetr.errors import ShmError

MESSAGE = struct.Struct("<QQ")  # sequence, epoch: for debugging
assert MESSAGE.size == 16
_TEXTS = {
    "Insufficient space": errno.ENOSPC,
    "maximum number of files": errno.EMFILE,
    "total number of open files": errno.ENFILE,
    "Not enough memory": errno.ENOMEM,
}


def _open(name: str, *, read: bool) -> posix_ipc.MessageQueue:
    foreign = (
        f"message queue {name} belongs to another user: run all of tridetr as one user, or choose another "
        "`instance`"
    )
    try:
        queue = posix_ipc.MessageQueue(
            name,
            flags=posix_ipc.O_CREAT,
            mode=0o600,
            max_messages=1,
            max_message_size=MESSAGE.size,
            read=read,
            write=not read,
        )
    except posix_ipc.PermissionsError as error:
        raise ShmError(foreign) from error
    except OSError as error:
        raise ShmError(_limit(name, error)) from error
    if os.fstat(queue.mqd).st_uid not in (os.geteuid(), 0):  # created by another user, open to all
        queue.close()
        raise ShmError(foreign)
    queue.block = False
    return queue


def _limit(name: str, error: OSError) -> str:
    # posix_ipc replaces some errors with its own text, without the number.
    number = error.errno or next((n for words, n in _TEXTS.items() if words in str(error)), 0)
    if number == errno.ENOSPC:
        return (
            f"cannot create message queue {name}: the system has as many as /proc/sys/fs/mqueue/queues_max allows "
            "(sysctl fs.mqueue.queues_max=1024; tridetr needs 11 per camera, 12 with `view`)"
        )
    if number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return (
            f"cannot create message queue {name}: RLIMIT_MSGQUEUE (ulimit -q) or RLIMIT_NOFILE (ulimit -n) of this "
            "user is exhausted: raise it (tridetr doctor shows how much is needed), or remove leftover queues in "
            "/dev/mqueue"
        )
    return f"cannot create message queue {name}: {error.strerror or error}"


def _lost_name(queue: posix_ipc.MessageQueue) -> bool:
    """Return whether a queue was removed, so that its name refers to no queue or to another one."""
    return os.fstat(queue.mqd).st_nlink == 0


class Wakeup:
    """The reader's end of a queue. With asyncio: ``loop.add_reader(wakeup.fileno(), callback)`` and :meth:`drain`."""

    def __init__(self, name: str) -> None:
        """Open the queue, creating it if necessary.

        Raises:
            ShmError: A system limit is reached; the message names it.
        """
        self._name = name
        self._queue = _open(name, read=True)
        # An epoll descriptor stays the same when the queue is replaced.
        self._epoll = select.epoll()
        self._epoll.register(self._queue.mqd, select.EPOLLIN)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the reader is woken; it never changes."""
        return self._epoll.fileno()

    def drain(self) -> bool:
        """Take the message if there is one; return whether there was."""
        try:
            self._queue.receive(0)
        except posix_ipc.BusyError:
            return False
        return True

    def wait(self, timeout_s: float) -> bool:
        """Wait for a message and take it; return False after the timeout."""
        return bool(self._epoll.poll(max(0.0, timeout_s))) and self.drain()

    def follow_name(self) -> bool:
        """Open the queue again if it was removed, and return whether it was; takes one system call if it was not.

        Raises:
            ShmError: A system limit is reached; the removed queue stays open.
        """
        if not _lost_name(self._queue):
            return False
        fresh = _open(self._name, read=True)
        self._epoll.unregister(self._queue.mqd)
        self._epoll.register(fresh.mqd, select.EPOLLIN)
        self._queue.close()
        self._queue = fresh
        return True

    def close(self) -> None:
        """Close this end; the queue stays, so that a restarted reader finds it."""
        self._epoll.close()
        with contextlib.suppress(posix_ipc.ExistentialError):
            self._queue.close()


class Wakers:
    """The writer's ends of a ring's queues."""

    def __init__(self, names: Sequence[str]) -> None:
        """Open the queues, creating them if necessary.

        Raises:
            ShmError: A system limit is reached; the message names it.
        """
        self._queues: dict[int, tuple[str, posix_ipc.MessageQueue]] = {}
        self._poll = select.poll()
        try:
            for name in names:
                self._add(name)
        except BaseException:
            self.close()
            raise

    def _add(self, name: str) -> None:
        queue = _open(name, read=False)
        self._queues[queue.mqd] = name, queue
        self._poll.register(queue.mqd, select.POLLOUT)

    def wake(self, sequence: int, epoch: int) -> None:
        """Wake the readers, except those that are about to wake up anyway."""
        if not self._queues:
            return
        # Polling first costs less than the exception of a full queue.
        for descriptor, _ in self._poll.poll(0):
            try:  # noqa: SIM105 (contextlib.suppress costs a microsecond)
                self._queues[descriptor][1].send(MESSAGE.pack(sequence, epoch), 0)
            except posix_ipc.BusyError:
                pass

    def follow_names(self) -> None:
        """Open the queues that were removed again.

        Raises:
            ShmError: A system limit is reached; the removed queue stays open.
        """
        for descriptor, (name, queue) in list(self._queues.items()):
            if _lost_name(queue):
                self._add(name)
                self._poll.unregister(descriptor)
                del self._queues[descriptor]
                queue.close()

    def close(self) -> None:
        """Close these ends; the queues stay."""
        for _, queue in self._queues.values():
            with contextlib.suppress(posix_ipc.ExistentialError):
                queue.close()
        self._queues = {}
