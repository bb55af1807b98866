"""Calls that the kernel may hold back: a FIFO without a writer, a network share whose server is gone."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from tridetr.errors import SourceError
from tridetr.telemetry import heartbeat

_Result = TypeVar("_Result")
_TURN_S = 0.2


class StalledError(SourceError):
    """A call did not return in time; it goes on in its thread."""


class BlockingCalls:
    """Runs calls one by one in a thread, so that the caller stays alive when one does not return."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, call: Callable[[], _Result]) -> Future[_Result]:
        """Start a call, after those before it."""
        if self._thread is None:
            # A daemon: at exit nothing waits for a call that does not return
            self._thread = threading.Thread(target=self._work, name="blocking-calls", daemon=True)
            self._thread.start()
        future: Future[_Result] = Future()
        self._jobs.put((future, call))
        return future

    def wait(self, future: Future[_Result], timeout_s: float) -> _Result:
        """Return the result of a call, or raise its error.

        Raises:
            StalledError: it has not returned within `timeout_s`, or stop is set; wait again later.
        """
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        deadline = time.monotonic() + timeout_s
        while not done.wait(_TURN_S):
            if self._stop.is_set() or time.monotonic() > deadline:
                raise StalledError(f"no answer for {timeout_s:g} s")
            heartbeat.beat()
        return future.result()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                future, call = self._jobs.get(timeout=1.0)
            except queue.Empty:
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # handed to the caller
                future.set_exception(error)
