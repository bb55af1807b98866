"""Reads the pace that the controller asks of a camera."""

from __future__ import annotations

import logging
import time

from tridetr.capture.pacing import Pace
from tridetr.shm.boards import SentryMode, SentryReader, SentrySnapshot
from tridetr.shm.closing import Closing

_log = logging.getLogger("tridetr.capture")

_REREAD_S = 0.1  # in case a wake-up is lost
_PATIENCE_S = 5.0  # the controller may start a little later


def pace_of(snapshot: SentrySnapshot | None, now_ns: int) -> Pace:
    """Return the pace that a board entry asks for; NO_CONTROLLER if there is none or it has expired."""
    if snapshot is None or snapshot.expires_monotonic_ns < now_ns:
        return Pace.NO_CONTROLLER
    return Pace.ALARMED if snapshot.mode is SentryMode.ALARMED else Pace.STANDBY


class Sentry(Closing):
    """Reads a camera's sentry board, and warns if no controller writes it for a while; a context manager."""

    def __init__(self, instance: str, camera: str, consumer: str = "capture") -> None:
        self._reader = SentryReader(instance, camera, consumer)
        assert self._reader.wakeup is not None  # it is a named consumer
        self._wakeup = self._reader.wakeup
        self._snapshot: SentrySnapshot | None = None
        self._read_s = float("-inf")
        self._pace: Pace | None = None
        self._alone_since_s = time.monotonic()
        self._warned = False

    def close(self) -> None:
        """Close the board."""
        self._reader.close()

    def pace(self) -> Pace:
        """Return the current pace; cheap, because it reads the board only after a wake-up, or every 0.1 s."""
        if self._wakeup.drain() or time.monotonic() - self._read_s > _REREAD_S:
            self._read()
        pace = pace_of(self._snapshot, time.monotonic_ns())
        if pace is not self._pace:
            if self._pace is not None:
                _log.debug("pace: %s", pace.value)
            self._pace = pace
            self._alone_since_s = time.monotonic()
            self._warned = self._warned and pace is Pace.NO_CONTROLLER
        elif pace is Pace.NO_CONTROLLER:
            self._warn_if_alone()
        return pace

    def _warn_if_alone(self) -> None:
        if self._warned or time.monotonic() - self._alone_since_s < _PATIENCE_S:
            return
        self._warned = True
        _log.warning("no controller is running: publishing frames at full rate until one starts")

    def _read(self) -> SentrySnapshot | None:
        self._snapshot = self._reader.read()
        self._read_s = time.monotonic()
        return self._snapshot

    def decided(self, sequence: int, timeout_s: float) -> bool:
        """Wait until the controller has decided on a frame; return False after the timeout."""
        deadline = time.monotonic() + timeout_s
        while True:
            snapshot = self._read()
            if snapshot is not None and snapshot.decided_frame_sequence >= sequence:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._wakeup.wait(left)
