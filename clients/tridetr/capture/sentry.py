"""What the controller wants of this camera, as capture sees it."""

from __future__ import annotations

import logging
import time

from tridetr.capture.pacing import Pace
from tridetr.shm.boards import SentryMode, SentryReader, SentrySnapshot
from tridetr.shm.closing import Closing

_log = logging.getLogger("tridetr.capture")

_REREAD_S = 0.1  # should a wake-up ever be lost
_PATIENCE_S = 5.0  # at start the controller may come a little later


def pace_of(snapshot: SentrySnapshot | None, now_ns: int) -> Pace:
    """Return the pace that a board asks for; an expired board asks for nothing."""
    if snapshot is None or snapshot.expires_monotonic_ns < now_ns:
        return Pace.NO_CONTROLLER
    return Pace.ALARMED if snapshot.mode is SentryMode.ALARMED else Pace.STANDBY


class Sentry(Closing):
    """Reads the sentry board, and says when nobody decides for a while."""

    def __init__(self, instance: str, camera: str, consumer: str = "capture") -> None:
        self._reader = SentryReader(instance, camera, consumer)
        assert self._reader.wakeup is not None  # it is a named consumer
        self._wakeup = self._reader.wakeup
        self._snapshot: SentrySnapshot | None = None
        self._read_s = float("-inf")
        self._pace: Pace | None = None
        self._alone_since_s = time.monotonic()
        self._said_alone = False

    def close(self) -> None:
        """Let go of the board."""
        self._reader.close()

    def pace(self) -> Pace:
        """Return the pace at this moment; cheap, the board is read when the controller woke us."""
        if self._wakeup.drain() or time.monotonic() - self._read_s > _REREAD_S:
            self._read()
        pace = pace_of(self._snapshot, time.monotonic_ns())
        if pace is not self._pace:
            if self._pace is not None:
                _log.info("pace: %s", pace.value)
            self._pace = pace
            self._alone_since_s = time.monotonic()
            self._said_alone = self._said_alone and pace is Pace.NO_CONTROLLER
        elif pace is Pace.NO_CONTROLLER:
            self._say_alone()
        return pace

    def _say_alone(self) -> None:
        if self._said_alone or time.monotonic() - self._alone_since_s < _PATIENCE_S:
            return
        self._said_alone = True
        _log.warning("no controller decides: frames go on at full rate until one does")

    def _read(self) -> SentrySnapshot | None:
        self._snapshot = self._reader.read()
        self._read_s = time.monotonic()
        return self._snapshot

    def decided(self, sequence: int, timeout_s: float) -> bool:
        """Wait until the controller has decided on a frame; False after the timeout."""
        deadline = time.monotonic() + timeout_s
        while True:
            snapshot = self._read()
            if snapshot is not None and snapshot.decided_frame_sequence >= sequence:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._wakeup.wait(left)
