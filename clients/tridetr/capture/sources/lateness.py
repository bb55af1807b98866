"""Finds out whether pictures are stored on their way, because the link is too slow for them, and come later and later.

A server that buffers (nginx and go2rtc do by default) takes pictures as fast as the camera sends them, and stores what
the link to this node does not carry: each picture comes later than the one before, for minutes. MJPEG has no
timestamps, and those of other streams may be wrong. So a second connection, which begins with a new picture, is the
proof: if the first one brings the same picture many seconds later, its pictures are late. Cameras that send only as
much as the link carries are left alone.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from enum import Enum, auto
from itertools import islice

from tridetr.backoff import Backoff
from tridetr.capture.sources.base import LoginError
from tridetr.capture.sources.pump import as_source_error
from tridetr.hang_up import HangUp

_log = logging.getLogger("tridetr.capture")

WINDOW_S = 10.0  # of reading, by which a link is judged
_IDLE_SHARE = 0.05  # of the time; the reader of a stream that fits waits longer between pictures
_BUSY_SHARE = 0.5  # of the time; a reader that waits less within pictures is the slow part itself
LATE_S = 6.0  # the systems' own buffers hold 4 to 5 s at 1 Mbit/s
_AWAITED_S = 600.0  # a link for a tenth of the stream brings the same picture after two minutes
_REMEMBERED = 1000  # pictures of the connection: one that has come already proves nothing
FIRST_WAIT_S = 120.0  # after a second connection that proved nothing, until the next one
_LONGEST_WAIT_S = 3600.0
_HARMED_WAIT_S = 6 * 3600.0  # if the first connection broke meanwhile
_PROVEN_S = 6 * 3600.0  # by then, the remedy may have been applied
_CALM_S = 300.0  # without a full link until a fault is over
_PROOFS_OF_NONE = 2  # in a row, until a fault is over
# What is read of a second connection: a busy server leaves out some pictures, others for each connection
_COMPARED = 10  # pictures
_COMPARED_S = 5.0  # from the first one on
_LAGS_S = (0, 6, 10, 20, 30, 60, 120, 300, 600)  # that are reported; each one is a line in the log


class LinkLoad:
    """Judges whether a stream takes all that its link carries. Pure: all times are arguments [s].

    The reader of a stream that fits waits between pictures. If the link is too slow, the next picture begins as soon as
    the one before has ended: the reader waits only within pictures.
    """

    def __init__(self) -> None:
        self._idle_s = self._busy_s = 0.0  # of the picture that is being read
        # When each one was complete, and its waits; those of the first do not count
        self._pictures: deque[tuple[float, float, float]] = deque()

    def waited(self, duration_s: float, *, inside: bool) -> None:
        """Count a wait for data, inside a picture or before it."""
        if inside:
            self._busy_s += duration_s
        else:
            self._idle_s += duration_s

    def picture(self, now_s: float) -> bool:
        """Count a picture that is complete; return whether the link has been full for the last `WINDOW_S`."""
        pictures = self._pictures
        pictures.append((now_s, self._idle_s, self._busy_s))
        self._idle_s = self._busy_s = 0.0
        while len(pictures) > 1 and now_s - pictures[1][0] >= WINDOW_S:
            pictures.popleft()
        spent_s = now_s - pictures[0][0]
        if spent_s < WINDOW_S:
            return False
        idle_s, busy_s = (sum(item[n] for item in islice(pictures, 1, None)) for n in (1, 2))
        return idle_s < _IDLE_SHARE * spent_s and busy_s > _BUSY_SHARE * spent_s


class Step(Enum):
    """What to do after a picture."""

    READ = auto()  # read on
    COMPARE = auto()  # open a second connection, and pass its pictures on
    REOPEN = auto()  # open the connection again, so that it begins with a new picture


class Lateness:
    """Judges a camera's pictures over all its connections. Pure: all times are arguments (monotonic) [s].

    Pictures are known by a hash of their bytes.

    Attributes:
        fault: Why the pictures are late; empty if they are not, as far as known.
        doubt: Why they may be late, while that is being found out.
    """

    def __init__(self) -> None:
        self.fault = self.doubt = ""
        self._waits = Backoff(first_s=FIRST_WAIT_S, longest_s=_LONGEST_WAIT_S)
        self._next_s = float("-inf")  # when a second connection is allowed
        self._is_forbidden = self._is_comparing = False
        self._is_suspect = False  # the connection, because of its timestamps
        self._was_doubtful = False  # the connection before, and the link may have been full since
        self._proven_until_s = float("-inf")
        self._lag_s = 0.0
        self._proofs_of_none = 0
        self._full_s = 0.0  # when the link was full last
        self._came: dict[int, float] = {}  # when each picture of the connection came last
        # When the second connection had its pictures; empty if none are awaited
        self._awaited: dict[int, float] = {}

    def connected(self, now_s: float) -> None:
        """Begin a connection."""
        self._came.clear()
        self._awaited.clear()
        self._is_comparing = False
        self._was_doubtful = self._was_doubtful or bool(self.doubt)
        self._is_suspect = False
        self._full_s = self._full_s or now_s

    def arrived(self, picture: int, now_s: float, *, is_full: bool) -> Step:
        """Take in a picture of the connection, and return what to do.

        Args:
            picture: Its hash.
            now_s: When it was complete.
            is_full: Whether the link is full; see `LinkLoad`.
        """
        if picture in self._awaited:
            self._judge(now_s - self._awaited[picture], now_s)
        elif self._awaited and now_s - max(self._awaited.values()) > _AWAITED_S:
            self._failed(now_s)
        self._came.pop(picture, None)  # it goes to the end
        self._came[picture] = now_s
        if len(self._came) > _REMEMBERED:
            del self._came[next(iter(self._came))]
        if not is_full:
            if now_s - self._full_s > _CALM_S:
                self.fault = ""
            return Step.READ
        self._full_s = now_s
        if now_s < self._proven_until_s or (self._is_forbidden and self.fault):
            self._report()
            return Step.REOPEN
        is_busy = self._is_forbidden or self._is_comparing or bool(self._awaited)
        if is_busy or now_s < self._next_s:
            return Step.READ
        if now_s - self._next_s > _LONGEST_WAIT_S:
            self._waits = Backoff(first_s=FIRST_WAIT_S, longest_s=_LONGEST_WAIT_S)
        self._is_comparing = True
        self._next_s = now_s + FIRST_WAIT_S
        return Step.COMPARE

    def compare(self, pictures: Mapping[int, float], now_s: float) -> None:
        """Take in when each picture of a second connection was complete; none if it failed."""
        self._is_comparing = False
        lags = [
            self._came[picture] - at for picture, at in pictures.items() if picture in self._came
        ]
        if lags:
            self._judge(min(lags), now_s)
        elif pictures:
            self._awaited = dict(pictures)
        else:
            self._failed(now_s)

    def broken(self, now_s: float) -> None:
        """Take in that the connection ended while a second one was open, perhaps because of it."""
        self._failed(now_s)
        self._next_s = now_s + _HARMED_WAIT_S

    def lags(self, lag_s: float, may_be_full: Callable[[], bool]) -> None:
        """Take in how far the timestamps of a stream have fallen behind the clock.

        From `LATE_S` on, this is reported until a second connection disproves it, because a camera whose timestamps are
        too slow is in time; if the link may be full, it is reported nevertheless. The next lag is another one.

        A server that is late itself is as late in a new connection, whose own lag begins with 0: one that follows a
        doubtful one is doubtful, too, until the link is not full.

        Args:
            lag_s: How far they have [s].
            may_be_full: Returns whether the stream may take all that the slowest link on its way carries.
        """
        self.doubt = ""
        if lag_s < LATE_S:
            # One that only becomes less, because its beginning is forgotten, is still the same
            if self._is_suspect and lag_s < LATE_S / 3:
                self._is_suspect = False
                self._proofs_of_none = 0
            self._was_doubtful = self._was_doubtful and may_be_full()
            if self._was_doubtful:
                self.doubt = "pictures may still come late, as before the connection began: the link may be full"
            return
        self._is_suspect = True
        is_disproved = self._proofs_of_none > 0 and not (self._is_comparing or self._awaited)
        if not (is_full := may_be_full()) and is_disproved:
            return
        reason = "the link may be full" if is_full else "no second connection has disproved it"
        self.doubt = (
            f"pictures may come more than {max(s for s in _LAGS_S if s <= lag_s)} s late: their timestamps have fallen "
            f"behind the clock, and {reason}"
        )

    def forbid(self) -> None:
        """Open no second connection any more: the camera has refused a login."""
        self._is_forbidden = True

    def _judge(self, lag_s: float, now_s: float) -> None:
        """Take in how much later the connection brought a picture than a second one."""
        self._awaited.clear()
        if lag_s >= LATE_S:
            self._lag_s = lag_s
            self._proofs_of_none = 0
            self._proven_until_s = now_s + _PROVEN_S
            self._waits = Backoff(first_s=FIRST_WAIT_S, longest_s=_LONGEST_WAIT_S)
            self._report()
            return
        self._proofs_of_none += 1
        if self._proofs_of_none >= _PROOFS_OF_NONE:
            self.fault = ""
        self._wait(now_s)

    def _failed(self, now_s: float) -> None:
        self._is_comparing = False
        self._awaited.clear()
        self._wait(now_s)
        if self.fault:
            self._proven_until_s = now_s + _PROVEN_S

    def _wait(self, now_s: float) -> None:
        self._next_s = now_s + self._waits.failed()

    def _report(self) -> None:
        self.fault = (
            f"pictures came {self._lag_s:.0f} s late: a server on the way stores what the link is too slow for. Let the"
            " camera send less, or set `proxy_buffering off` in nginx"
        )


class SecondConnection:
    """Reads some pictures of a second connection, in a thread."""

    def __init__(
        self, read: Callable[[HangUp], Generator[bytes, None, None]], shown: str, timeout_s: float
    ) -> None:
        """Start the thread.

        Args:
            read: Connects and yields JPEGs or packets, until its argument is set.
            shown: The camera's address for messages.
            timeout_s: How long this may take [s].
        """
        self.pictures: dict[int, float] = {}  # hashes, and when each was complete
        self.is_refused = False  # the login
        self._read = read
        self._shown = shown
        self._until_s = time.monotonic() + timeout_s
        self._hang_up = HangUp()
        # A daemon thread, so that exit does not wait for a server that does not respond
        self._thread = threading.Thread(target=self._run, name="second-connection", daemon=True)
        self._thread.start()

    def is_done(self) -> bool:
        """Return whether it has ended; it is ended if it takes too long."""
        if time.monotonic() > self._until_s:
            self._hang_up.set()
        return not self._thread.is_alive()

    def close(self) -> None:
        """Break it off; the thread ends by itself."""
        self._hang_up.set()

    def _run(self) -> None:
        try:
            with closing(self._read(self._hang_up)) as jpegs:
                until_s = math.inf
                for jpeg in islice(jpegs, _COMPARED):
                    now_s = time.monotonic()
                    self.pictures[hash(jpeg)] = now_s
                    until_s = min(until_s, now_s + _COMPARED_S)
                    if now_s > until_s:
                        break
        except Exception as error:  # also a bug, which it logs
            self.is_refused = isinstance(error, LoginError)
            _log.debug("second connection: %s", as_source_error(self._shown, error))


class Comparison:
    """Watches one connection, and opens a second one when `Lateness` asks for it."""

    def __init__(
        self,
        known: Lateness,
        read_apart: Callable[[HangUp], Generator[bytes, None, None]],
        shown: str,
        timeout_s: float,
    ) -> None:
        """Begin with the connection.

        Args:
            known: What is known from all connections to the camera.
            read_apart: Opens another connection and yields its pictures, until its argument is set.
            shown: The camera's address for messages.
            timeout_s: How long the second connection may take [s].
        """
        self.known = known
        self._read_apart = read_apart
        self._shown = shown
        self._timeout_s = timeout_s
        self._second: SecondConnection | None = None
        known.connected(time.monotonic())

    def is_late(self, picture: bytes, now_s: float, *, is_full: bool) -> bool:
        """Take in a picture; return whether the connection should be opened again.

        Args:
            picture: Its bytes.
            now_s: When it was complete.
            is_full: Whether the link is full, as far as known.
        """
        if self._second is not None and self._second.is_done():
            if self._second.is_refused:
                self.known.forbid()
            self.known.compare(self._second.pictures, now_s)
            self._second = None
        step = self.known.arrived(hash(picture), now_s, is_full=is_full)
        if step is Step.COMPARE:
            self._second = SecondConnection(self._read_apart, self._shown, self._timeout_s)
        return step is Step.REOPEN

    def close(self) -> None:
        """End with the connection."""
        if self._second is not None:
            self._second.close()
            self.known.broken(time.monotonic())
