"""Work with a disk that may stop answering (a worn memory card, a network share), without blocking its user."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
# Yields work for the disk and receives its result or exception; returns whether everything was done.
Steps: TypeAlias = Generator[Callable[[], Any], Any, bool]

PATIENCE_S = 2.0  # longest wait for the disk; work that takes longer has stalled
# A disk that is always slow may block its user for twice that long at a time, and a quarter of the time after that
_BURST, _SHARE = 2, 0.25


class DiskStalledError(OSError):
    """The disk does not answer."""

    def __init__(self) -> None:
        super().__init__("the disk does not answer")


class DiskThread:
    """Runs work in a thread of its own, one piece at a time, in order.

    It is a daemon thread: work that never ends does not keep the process from exiting.

    Args:
        name: Name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._steps: Steps | None = None  # unfinished
        self._job: Future[Any] | None = None  # that the steps wait for
        self._asked_at = 0.0
        self._credit_s, self._credited_at = _BURST * PATIENCE_S, time.monotonic()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have work done and return its future result."""
        job: Future[T] = Future()
        self._jobs.put((job, work))
        return job

    def run(self, start: Callable[[], Steps], patience_s: float | None = None) -> bool | None:
        """Continue unfinished steps, or start new ones; return their result, or None if they are still unfinished.

        The steps themselves run in the caller's thread. Waits for the disk for `PATIENCE_S` at most, less if it
        keeps being slow, and not again for work that has taken that long.

        Args:
            start: Returns new steps; called only if none are unfinished.
            patience_s: Longest wait in seconds, instead.
        """
        steps = self._steps = self._steps or start()
        until_s = None if patience_s is None else time.monotonic() + patience_s
        while True:
            job = self._job
            if job is not None and not self._wait(job, until_s):
                return None
            self._job = None
            try:
                if job is None:
                    work = next(steps)
                elif (error := job.exception()) is not None:
                    work = steps.throw(error)
                else:
                    work = steps.send(job.result())
            except StopIteration as end:
                self._steps = None
                return bool(end.value)
            except BaseException:
                self._steps = None
                raise
            self._asked_at = time.monotonic()
            self._job = self.submit(work)

    @property
    def is_stalled(self) -> bool:
        """Whether the steps wait for work that has taken longer than `PATIENCE_S`."""
        return self._job is not None and time.monotonic() - self._asked_at >= PATIENCE_S

    def close(self) -> None:
        """End the thread after its current work, without waiting for it."""
        self._jobs.put(None)

    def _wait(self, job: Future[Any], until_s: float | None) -> bool:
        """Wait until a job is done or no time is left for it; return whether it is done."""
        now = time.monotonic()
        self._credit_s += (now - self._credited_at) * _SHARE
        self._credit_s = min(self._credit_s, _BURST * PATIENCE_S)
        left_s = min(self._credit_s, self._asked_at + PATIENCE_S - now)
        if until_s is not None:
            left_s = until_s - now
        with suppress(concurrent.futures.TimeoutError):  # a built-in one only since Python 3.11
            job.exception(max(0.0, left_s))
        self._credited_at = time.monotonic()
        self._credit_s = max(0.0, self._credit_s - (self._credited_at - now))
        return job.done()

    def _work(self) -> None:
        while (found := self._jobs.get()) is not None:
            job, work = found
            try:
                job.set_result(work())
            except BaseException as error:  # for the one who waits for it
                job.set_exception(error)
            del found, job, work  # do not keep them until the next job
