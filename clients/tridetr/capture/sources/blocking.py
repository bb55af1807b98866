"""Runs calls that may block indefinitely, such as reading a FIFO without a writer or a dead network share."""

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
    """A call did not return in time; it continues in its thread."""


class BlockingCalls:
    """Runs calls one by one in a thread, so that the caller stays responsive if one does not return."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, call: Callable[[], _Result]) -> Future[_Result]:
        """Queue a call; it runs after the earlier ones."""
        if self._thread is None:
            # A daemon thread, so that exit does not wait for a call that does not return
            self._thread = threading.Thread(target=self._work, name="blocking-calls", daemon=True)
            self._thread.start()
        future: Future[_Result] = Future()
        self._jobs.put((future, call))
        return future

    def wait(self, future: Future[_Result], timeout_s: float) -> _Result:
        """Return the result of a call, or raise its error.

        Raises:
            StalledError: It has not returned within `timeout_s`, or stop is set; wait again later.
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
