"""Reports the camera's state on the status board: at every change, and regularly as a heartbeat."""

from __future__ import annotations

import logging
import threading
import time

from tridetr.capture.sources.base import SourceInfo
from tridetr.errors import ShmError
from tridetr.shm.boards import BlindReason, CameraState, CameraStatus, StatusWriter
from tridetr.telemetry import metrics

_log = logging.getLogger("tridetr.capture")

_BEAT_S = 0.4
_MESSAGE_BYTES = 200


class StatusReporter:
    """Writes one camera's status board, from the capture loop and from a heartbeat thread; a context manager."""

    def __init__(self, instance: str, camera: str) -> None:
        self._camera = camera
        metrics.RECONNECTS.labels(camera)  # start at 0, so that the first reconnect is an increase
        self._lock = threading.Lock()
        self._writer = StatusWriter(instance, camera)
        self._info: SourceInfo | None = None
        self._state = CameraState.STARTING
        self._since_unix_ns = time.time_ns()
        self._size = (0, 0)
        self._fps = 0.0
        self._reconnects = 0
        self._message = self._view_fault = ""
        self._blind = BlindReason.NONE
        self._doubtful_until_ns = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="status", daemon=True)

    def __enter__(self) -> StatusReporter:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._writer.close()

    def opened(self, info: SourceInfo) -> None:
        """Record the properties of an opened source; the state changes with the first frame."""
        with self._lock:
            self._info = info
            self._fps = info.fps
            self._size = (info.width, info.height)

    def state(
        self, state: CameraState, message: str = "", blind: BlindReason = BlindReason.NONE
    ) -> None:
        """Set the state; `message` and `blind` are the reason if it is not live.

        For a live camera, `message` is why its pictures are too few, or late.
        """
        with self._lock:
            if (state, message, blind) == (self._state, self._message, self._blind):
                return
            if state is not self._state:
                self._since_unix_ns = time.time_ns()
                _log.info("camera is %s%s", state.name.lower(), message and f": {message}")
            elif state is CameraState.LIVE and message != self._message:
                _log.warning("%s", message or "its pictures arrive as they should again")
            self._state = state
            self._message = message
            self._blind = blind
        self._write()

    def doubt(self, capture_ns: int) -> None:
        """Record that pictures up to a capture time (CLOCK_MONOTONIC) may not show the scene.

        It stays on the board when the camera's state changes, because results come later than their pictures.
        """
        with self._lock:
            if capture_ns <= self._doubtful_until_ns:
                return
            self._doubtful_until_ns = capture_ns
        self._write()

    def view(self, fault: str) -> None:
        """Set why viewers do not get the second stream; empty if nothing is wrong with it."""
        with self._lock:
            if fault == self._view_fault:
                return
            self._view_fault = fault
        self._write()

    def reconnecting(self) -> None:
        """Count another attempt to open the source."""
        metrics.RECONNECTS.labels(self._camera).inc()
        with self._lock:
            self._reconnects += 1

    def measured(self, width: int, height: int, fps: float | None) -> None:
        """Record the size of the frames in the ring [pixels] and the source's frame rate; None keeps the rate."""
        with self._lock:
            self._size = (width, height)
            if fps is not None:
                self._fps = fps

    def _beat(self) -> None:
        while not self._done.wait(_BEAT_S):
            self._write()

    def _write(self) -> None:
        with self._lock:
            info = self._info
            metrics.CAMERA_STATE.labels(self._camera).set(self._state.value)
            for reason in BlindReason:
                if reason is not BlindReason.NONE:
                    gauge = metrics.CAMERA_BLIND.labels(self._camera, reason.name.lower())
                    gauge.set(self._state is CameraState.BLIND and reason is self._blind)
            status = CameraStatus(
                state=self._state,
                since_unix_ns=self._since_unix_ns,
                heartbeat_monotonic_ns=time.monotonic_ns(),
                width=self._size[0],
                height=self._size[1],
                source_fps=self._fps,
                source_kind=info.kind if info else "",
                capture_clock=info.capture_clock if info else "",
                reconnects=self._reconnects,
                message=shorten(self._message),
                blind_reason=self._blind,
                view_fault=shorten(self._view_fault),
                doubtful_until_monotonic_ns=self._doubtful_until_ns,
            )
            try:
                self._writer.write(status)
            except (ShmError, OSError) as error:
                _log.debug(
                    "cannot write the status board: %s; trying again with the next heartbeat", error
                )


def shorten(message: str) -> str:
    """Truncate a message to the 200 bytes that the board holds, at a character boundary.

    >>> len(shorten("ä" * 150).encode())
    200
    """
    return message.encode()[:_MESSAGE_BYTES].decode(errors="ignore")
