"""Read the recorder's pictures of visits, for notifications and for the broker."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from tridetr.config import Config
from tridetr.disk_thread import DiskThread
from tridetr.recorder.visit_list import file_of, find_visit

logger = logging.getLogger("tridetr.controller")

PATIENCE_S = 5.0  # age of an event up to which its picture is waited for: the recorder selects the best frame first
_POLL_S = 0.2
_READ_S = 2.0  # longer reads of a picture count as a disk that hangs
_LOOK_S = 1.0
_AFTER_S = 15.0  # time after the end of a visit in which a better picture may still arrive
_LARGEST = 256 * 1024  # bytes in one MQTT message; brokers may close the connection on larger ones
# Connections in a row that end before a picture is acknowledged: the broker refuses its size
_LOSSES = 2
_LIMIT_S = 86_400.0  # then larger pictures are tried again: the network may have been the reason


def newest_picture(
    config: Config, visit_id: str, largest: int | None = None
) -> tuple[str, bytes] | None:
    """Return the file name and the JPEG of a visit's picture; None if there is none yet.

    Args:
        config: configuration of the node.
        visit_id: ID of the visit.
        largest: maximum size in bytes; if the picture is larger, its crop is returned instead.
    """
    path = config.evidence_dir
    with suppress(sqlite3.Error, OSError, ValueError):
        found = find_visit(path, visit_id) if path is not None else None
        for name in (found[0].picture, found[0].crop) if found and path else ():
            data = file_of(path, name).read_bytes() if name and path else b""
            if data and (largest is None or len(data) <= largest):
                return str(name), data
    return None


class PictureWait:
    """Waits for pictures for notifications, in threads of its own: a disk that hangs must not delay the alarm.

    While one of these threads hangs, messages go out without their pictures, so that hung threads do not accumulate.

    Args:
        config: configuration of the node.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._hung: list[threading.Thread] = []
        self._lock = threading.Lock()

    def read(self, visit_id: str, event_unix_ns: int) -> bytes | None:
        """Return a visit's picture as JPEG, waiting until the event is ``PATIENCE_S`` old; None if there is none.

        Blocks: do not call it in the event loop. May be called in several threads.
        """
        if self._config.evidence is None or not self._config.evidence.pictures:
            return None
        with self._lock:
            self._hung = [thread for thread in self._hung if thread.is_alive()]
            if self._hung:
                return None
        found: list[bytes] = []
        reading = threading.Thread(
            target=self._wait, args=(visit_id, event_unix_ns, found), name="picture", daemon=True
        )
        reading.start()
        reading.join(PATIENCE_S + _READ_S)
        if reading.is_alive():
            logger.warning(
                "the disk of evidence.path does not answer: notifications are sent without pictures until it does"
            )
            with self._lock:
                self._hung.append(reading)
        return next(iter(found), None)

    def _wait(self, visit_id: str, event_unix_ns: int, found: list[bytes]) -> None:
        while True:
            picture = newest_picture(self._config, visit_id)
            if picture is not None:
                found.append(picture[1])
                return
            if not 0 <= time.time_ns() - event_unix_ns < PATIENCE_S * 1e9:
                return
            time.sleep(_POLL_S)


@dataclass(slots=True)
class _Followed:
    visit_id: str
    until_s: float
    shown: str = ""  # name of the picture that was published
    is_busy: bool = False


class PicturePublisher:
    """Publishes the picture of each camera's newest visit, and again whenever there is a better one.

    Args:
        config: configuration of the node.
        publish: called with a camera and a JPEG, in the event loop's thread; returns the message ID, or None if the
            message was not sent.
    """

    def __init__(self, config: Config, publish: Callable[[str, bytes], int | None]) -> None:
        self._config = config
        self._publish = publish
        self._largest = _LARGEST
        self._limited_at = float("-inf")
        self._losses = 0
        self._sent: dict[int, int] = {}  # size of each unacknowledged picture, by message ID
        self._followed: dict[str, _Followed] = {}
        self._looked_at = float("-inf")
        self._disk = DiskThread("pictures")

    @property
    def idle(self) -> bool:
        """Whether no picture is waiting for its acknowledgement."""
        return not self._sent

    def on_ack(self, mid: int) -> bool:
        """Return whether the broker has acknowledged a picture with this message."""
        if self._sent.pop(mid, None) is None:
            return False
        self._losses = 0
        return True

    def on_up(self) -> None:
        """Publish the newest pictures again: the broker may have lost them.

        A broker closes the connection on a message that is too large for it; the same picture would end every
        connection.
        """
        if self._sent:
            self._losses += 1
            size = max(self._sent.values())
            if self._losses >= _LOSSES:
                self._losses, self._largest = 0, size // 2
                self._limited_at = time.monotonic()
                logger.warning(
                    "the connection to the broker ended %d times while a picture of %d bytes was sent (a limit on "
                    "the size of messages?): pictures of more than %d bytes are not published for a day",
                    _LOSSES,
                    size,
                    self._largest,
                )
            self._sent.clear()
        for followed in self._followed.values():
            followed.shown = ""
            followed.until_s = max(followed.until_s, time.monotonic() + 2 * _LOOK_S)

    def follow(self, camera: str, visit_id: str) -> None:
        """Set the open visit of a camera; empty = none. Call it for each camera a few times a second."""
        followed = self._followed.get(camera)
        now = time.monotonic()
        if visit_id:
            if followed is None or followed.visit_id != visit_id:
                followed = self._followed[camera] = _Followed(visit_id, now)
            followed.until_s = now + _AFTER_S

    def look(self) -> None:
        """Look for better pictures, at most once a second."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        if now - self._limited_at >= _LIMIT_S:
            self._largest = _LARGEST
        for camera, followed in self._followed.items():
            if now < followed.until_s and not followed.is_busy:
                followed.is_busy = True
                work = partial(newest_picture, self._config, followed.visit_id, self._largest)
                reading = asyncio.wrap_future(self._disk.submit(work))
                reading.add_done_callback(partial(self._show, camera, followed))

    def close(self) -> None:
        """Stop the reading thread without waiting for it."""
        self._disk.close()

    def _show(
        self, camera: str, followed: _Followed, reading: asyncio.Future[tuple[str, bytes] | None]
    ) -> None:
        followed.is_busy = False
        found = None if reading.cancelled() else reading.result()
        if found is not None and found[0] != followed.shown:
            followed.shown = found[0]
            mid = self._publish(camera, found[1])
            if mid is not None:
                self._sent[mid] = len(found[1])
