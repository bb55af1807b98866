"""Write to stderr without ever waiting for its reader: a terminal that is paused, a full pipe, a disk that hangs."""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import IO

logger = logging.getLogger("tridetr.log")

_LONGEST = 1 << 16  # of a line of a process's output
_LIMIT = 1 << 20  # bytes that wait for the reader
_EXIT_S = 1.0  # for what still waits at the end


def never_block_on_stderr() -> None:
    """Make everything that Python writes to stderr (log, prints, tracebacks) wait in a thread of its own.

    What does not fit is dropped and counted in the log as soon as the reader is back. At the end of the process, it
    gets a second to read the rest.
    """
    stderr = sys.__stderr__
    if stderr is None or stderr is not sys.stderr:  # closed, or replaced already
        return
    writer = _Writer(stderr.fileno())
    sys.stderr = io.TextIOWrapper(
        writer, encoding=stderr.encoding, errors=stderr.errors, write_through=True
    )
    atexit.register(writer.finish)


class OutputReaders:
    """Reads the output of processes line by line, in one thread each, so that they never wait for its reader.

    Args:
        take: Called with each line; the default writes it to stderr.
    """

    def __init__(self, take: Callable[[bytes], object] | None = None) -> None:
        self._take = take or _write
        self._threads: list[threading.Thread] = []

    def attach(self, stream: IO[bytes]) -> None:
        """Read the output of one more process until it ends.

        Raises:
            RuntimeError: No thread can be started.
        """
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=self._read, args=(stream,), name="output", daemon=True)
        thread.start()
        self._threads.append(thread)

    def finish(self) -> None:
        """Wait for the last lines of processes that have exited, a second at most."""
        deadline_s = time.monotonic() + _EXIT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _read(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError), stream:
            while line := stream.readline(_LONGEST):
                self._take(line)


def _write(line: bytes) -> None:
    sys.stderr.buffer.write(line if line.endswith(b"\n") else line + b"\n")


class _Writer(io.RawIOBase):
    """The binary stream below `sys.stderr`: queues what is written, and writes it in a daemon thread."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._queue: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        self._lock = threading.RLock()  # reentrant, for signal handlers
        self._waiting = 0  # bytes
        self._dropped = 0  # lines, since that was last logged
        self._failed = 0
        self._finished: bool | None = None
        threading.Thread(target=self._work, name="stderr", daemon=True).start()

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]  # bytes-like only
        """Queue bytes for writing; drop them if too many wait already. Never waits."""
        chunk = bytes(data)
        if self._finished is not None:  # the last words of the interpreter
            if self._finished:
                self._write_out(chunk)
            return len(chunk)
        with self._lock:
            # Once something was dropped, everything is, until the rest was read: there is one gap, where it is logged
            if self._waiting + len(chunk) > _LIMIT or (self._dropped and self._waiting):
                self._dropped += chunk.count(b"\n")
            else:
                self._waiting += len(chunk)
                self._queue.put(chunk)
        return len(chunk)

    def finish(self) -> None:
        """Wait until everything is written, a second at most."""
        written = threading.Event()
        self._queue.put(written)
        self._finished = written.wait(_EXIT_S)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def _work(self) -> None:
        while True:
            found = self._queue.get()
            if isinstance(found, threading.Event):
                found.set()
                continue
            written = self._write_out(found)
            with self._lock:
                self._waiting -= len(found)
                if not written:
                    self._failed += found.count(b"\n")
                lost = self._dropped + self._failed
                if not lost or not written or self._waiting:
                    continue
                self._dropped = self._failed = 0
            logger.warning(
                "%d lines of the log were dropped: they could not be written, or nothing read them",
                lost,
            )

    def _write_out(self, chunk: bytes) -> bool:
        try:
            while chunk:
                try:
                    chunk = chunk[os.write(self._descriptor, chunk) :]
                except BlockingIOError:  # another program made the terminal non-blocking
                    select.select([], [self._descriptor], [])
        except OSError:  # the reader or the terminal is gone, the disk is full
            return False
        return True
