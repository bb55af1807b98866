"""Deliver queued events to the notification targets: in order, one at a time, with one thread per target.

A target that fails or stalls delays only itself. An event stays in the database until its target has accepted it; a
delivery that was interrupted by a crash is repeated with the same event ID. Events that a target never accepts must
not block later ones: after several failures of the oldest event, each attempt also tries another one, and if that one
is accepted, the oldest counts as refused. An event that only some of the target's recipients have got is tried twice:
they would get it at each attempt.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from queue import SimpleQueue

from tridetr.backoff import wait_s
from tridetr.config import NotifySection
from tridetr.controller.store import Store
from tridetr.controller.stored_rows import Row
from tridetr.controller.waiting import WaitingTime
from tridetr.notify.notification import Message
from tridetr.notify.senders import DeliveryError, deliver
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.controller")

_RETRY_S = (1.0, 300.0)
_REFUSALS = 5  # refusals after which a message is dropped
_IN_PART = 2  # attempts of which some recipients got the message, after which it is dropped
_WITH_PICTURE = 2  # attempts with the picture, in case that is what the target does not accept
_FAILURES = 5  # failures of one message after which others are tried too
# How long events of removed targets are kept: their counter must be scraped at 0 before, so that Prometheus sees an
# increase, and a name that was changed by mistake can be corrected
_REMOVED_S = 120.0


class Target:
    """Delivers the events of one target in its own thread."""

    def __init__(
        self, section: NotifySection, store: Store, compose: Callable[[NotifySection, Row], Message]
    ) -> None:
        self.section = section
        self.fault = ""  # why the last attempt failed; empty = it succeeded
        self._store = store
        self._compose = compose
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Row, bool]] = SimpleQueue()
        self._waiting_time = WaitingTime()
        self._is_busy = False
        self._failures = self._refusals = 0  # of the event that was the oldest when it was tried
        self._in_part: Counter[str] = Counter()  # such attempts, by id of the event
        self._tried = ""  # id of that event
        self._newest = ""  # id of the newest event when it was tried last
        self._has_new = False  # the attempt was made because of a new event
        self._others_tried: set[str] = set()  # ids of events that were tried in this turn
        self._must_wait = False  # the target has asked for the pause
        self._is_others_turn = False  # after that pause
        self._asked_s = 0.0  # the pause that was asked for with the oldest event
        self._retry_at = float("-inf")
        for outcome in ("delivered", "failed", "dropped"):
            metrics.NOTIFICATIONS.labels(section.name, outcome)
        # A daemon thread: a server that stalls must not keep the process from exiting.
        threading.Thread(target=self._work, name=f"notify {section.name}", daemon=True).start()

    def waited_s(self) -> float:
        """Return for how long the event to deliver next has been waiting [s]; 0 if none is."""
        return self._waiting_time.of_oldest(self._waiting)

    @property
    def _waiting(self) -> OrderedDict[str, Row]:
        """The waiting events by ID, oldest first."""
        return self._store.notices.waiting.get(self.section.name, OrderedDict())

    def pump(self) -> None:
        """Hand the oldest event to the thread, if it is time."""
        waiting = self._waiting
        metrics.NOTIFICATIONS_WAITING.labels(self.section.name).set(len(waiting))
        if not waiting or self._is_busy:
            return
        # A new event does not wait for the end of a long pause, unless the target has asked for the pause.
        newest = next(reversed(waiting))
        is_new = newest != self._newest and self._failures >= _FAILURES and not self._must_wait
        if is_new or time.monotonic() >= self._retry_at:
            self._newest, self._has_new = newest, is_new
            oldest = next(iter(waiting.values()))
            # The one before may have been dropped from a full queue
            if oldest.event_id != self._tried:
                self._tried = oldest.event_id
                self._failures = self._refusals = 0
                self._is_others_turn, self._asked_s = False, 0.0
            if self._is_others_turn and len(waiting) > 1:
                self._is_others_turn = False
                self._start(self._other(), with_picture=True)
            else:
                self._start(oldest, with_picture=self._failures < _WITH_PICTURE)

    def _start(self, row: Row, *, with_picture: bool) -> None:
        self._is_busy = True
        # The picture may be what some recipients do not accept
        self._jobs.put((row, with_picture and row.event_id not in self._in_part))

    def _work(self) -> None:
        while True:
            row, with_picture = self._jobs.get()
            error: DeliveryError | None = None
            try:
                message = self._compose(self.section, row)
                deliver(self.section, message if with_picture else replace(message, picture=None))
            except DeliveryError as failure:
                error = failure
            # A bug in a library must not end the thread. Its message is not logged: it may contain the URL.
            except Exception as failure:
                error = DeliveryError(f"unexpected {type(failure).__name__} while sending")
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._done, row, error)

    def _done(self, row: Row, error: DeliveryError | None) -> None:
        self._is_busy = False
        if error is not None:
            metrics.NOTIFICATIONS.labels(self.section.name, "failed").inc()
            if error.in_part:
                self._in_part[row.event_id] += 1
        if row.event_id != self._tried:
            self._done_other(row, error)
        elif error is None:
            self._finish(row, "delivered")
            if self.fault:
                logger.info("notifications to %s are delivered again", self.section.name)
            self.fault = ""
            self.pump()
        else:
            self._failed(row, error)

    def _failed(self, row: Row, error: DeliveryError) -> None:
        self._failures += 1
        self._refusals += error.refused
        if str(error) != self.fault:
            self.fault = str(error)
            logger.warning("notification to %s failed: %s; retrying", self.section.name, error)
        is_over = self._refusals >= _REFUSALS or self._in_part[row.event_id] >= _IN_PART
        if is_over and row.event_id in self._waiting:
            self._drop(row)
            return
        self._pause(max(wait_s(self._failures, *_RETRY_S), error.wait_s))
        self._asked_s = error.wait_s
        self._must_wait = error.wait_s > 0
        if self._failures >= _FAILURES and len(self._waiting) > 1:
            if self._must_wait:
                self._is_others_turn = True
            else:
                self._start(self._other(), with_picture=True)

    def _pause(self, seconds: float) -> None:
        self._retry_at = time.monotonic() + min(seconds, _RETRY_S[1])

    def _other(self) -> Row:
        """Return the event to try beside the oldest one: a new one at once, otherwise all of them in turn."""
        others = [*islice(self._waiting.values(), 1, None)]
        waiting = (row for row in others if row.event_id not in self._others_tried)
        row = others[-1] if self._has_new else next(waiting, None)
        if row is None:
            self._others_tried.clear()
            row = others[0]
        self._others_tried.add(row.event_id)
        return row

    def _done_other(self, row: Row, error: DeliveryError | None) -> None:
        """Handle the outcome of an event that was tried because the oldest one keeps failing."""
        is_in_part = error is not None and self._in_part[row.event_id] >= _IN_PART
        if error is not None and not is_in_part:
            if error.wait_s > 0:
                self._must_wait = True
                self._pause(error.wait_s)
            return
        if is_in_part:
            self._log_dropped(row, str(error))
        self._count(row, "dropped" if is_in_part else "delivered")
        self._refusals += 1
        failing = self._waiting.get(self._tried)
        if failing is not None and self._refusals >= _REFUSALS:
            self._drop(failing)
        else:
            self._pause(max(_RETRY_S[0], self._asked_s))

    def _drop(self, row: Row) -> None:
        self._log_dropped(row, self.fault)
        self._finish(row, "dropped")

    def _log_dropped(self, row: Row, fault: str) -> None:
        in_part = self._in_part[row.event_id]
        logger.error(
            "notification of %s to %s was %s %d times and is dropped: %s",
            row.event_id,
            self.section.name,
            "delivered in part" if in_part else "refused",
            in_part or self._refusals,
            fault,
        )

    def _finish(self, row: Row, outcome: str) -> None:
        self._failures = self._refusals = 0
        self._retry_at = float("-inf")
        self._count(row, outcome)

    def _count(self, row: Row, outcome: str) -> None:
        metrics.NOTIFICATIONS.labels(self.section.name, outcome).inc()
        self._in_part.pop(row.event_id, None)
        self._store.notified(self.section.name, row.event_id)


class Notifier:
    """Delivers events to all targets; use it in the event loop's thread.

    Args:
        sections: configuration of the targets.
        store: holds the queued events.
        compose: returns the message of an event; called in a target's thread.
    """

    def __init__(
        self,
        sections: tuple[NotifySection, ...],
        store: Store,
        compose: Callable[[NotifySection, Row], Message],
    ) -> None:
        self._store = store
        self._targets = [Target(section, store, compose) for section in sections]
        self._names = frozenset(section.name for section in sections)
        self._drop_at: dict[str, float] = {}  # by removed target

    def pump(self) -> None:
        """Start every delivery that is due, and drop what waits for targets that are no longer configured."""
        for target in self._targets:
            target.pump()
        for name in self._store.notices.waiting.keys() - self._names:
            self._drop_later(name, len(self._store.notices.waiting[name]))

    def _drop_later(self, target: str, waiting: int) -> None:
        """Drop the events of a removed target after ``_REMOVED_S``."""
        now_s = time.monotonic()
        if target not in self._drop_at:
            self._drop_at[target] = now_s + _REMOVED_S
            metrics.NOTIFICATIONS.labels(target, "dropped")  # at 0, so that they are an increase
            metrics.NOTIFICATIONS_WAITING.labels(target).set(waiting)
            logger.warning(
                "%s is no longer in `notify` (removed or renamed): %d notifications that are waiting for it are "
                "dropped in %.0f s, unless the node is restarted with a target of that name",
                target,
                waiting,
                _REMOVED_S,
            )
        elif now_s >= self._drop_at[target]:
            self._store.notices.drop(target)
            self._store.flush()
            metrics.NOTIFICATIONS_WAITING.labels(target).set(0)

    def problem(self, patience_s: float) -> str:
        """Return the targets for which an event has waited longer than ``patience_s``, with the reason; else empty."""
        return "; ".join(
            f"{target.section.name}: {target.fault or 'it does not keep up'}"
            for target in self._targets
            if target.waited_s() > patience_s
        )
