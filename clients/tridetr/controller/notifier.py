"""Brings events to the targets of notifications: in order, one at a time for each, in a thread of its own.

A target that fails or stalls delays itself only. An event stays in the database until its target has taken it; what
was under way when the process died is sent again, under the same id. An event that a target never takes must not keep
the later ones from it: after some failures the next one is tried each time, and if that one is taken, the first one
counts as refused.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue

from tridetr.backoff import wait_s
from tridetr.config import NotifySection
from tridetr.controller.store import Store
from tridetr.controller.stored_rows import Row
from tridetr.notify.notification import Message
from tridetr.notify.senders import DeliveryError, deliver
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.controller")

_RETRY_S = (1.0, 300.0)
_REFUSALS = 5  # of one message, until it is dropped
_WITH_PICTURE = 2  # attempts; the picture may be what the target does not take
_FAILURES = 5  # of one message, until the next one is tried, too


class Target:
    """The thread of one target."""

    def __init__(
        self, section: NotifySection, store: Store, compose: Callable[[NotifySection, Row], Message]
    ) -> None:
        self.section = section
        self.fault = ""  # why the last attempt failed; empty = it did not
        self._store = store
        self._compose = compose
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Row, bool]] = SimpleQueue()
        self._is_busy = False
        self._failures = self._refusals = 0  # of the oldest event
        self._tried_next = ""  # id of the event after it that was tried, too
        self._must_wait = False  # the target has asked for the pause
        self._retry_at = float("-inf")
        for outcome in ("delivered", "failed", "dropped"):
            metrics.NOTIFICATIONS.labels(section.name, outcome)
        # A daemon: a server that stalls must not keep the process from ending.
        threading.Thread(target=self._work, name=f"notify {section.name}", daemon=True).start()

    @property
    def oldest(self) -> Row | None:
        """The event that is delivered next."""
        return self._first_two[0]

    @property
    def _first_two(self) -> tuple[Row | None, Row | None]:
        rows = iter(self._store.notices.waiting.get(self.section.name, {}).values())
        return next(rows, None), next(rows, None)

    def pump(self) -> None:
        """Hand the oldest event to the thread, if it is time."""
        waiting = len(self._store.notices.waiting.get(self.section.name, ()))
        metrics.NOTIFICATIONS_WAITING.labels(self.section.name).set(waiting)
        row, following = self._first_two
        if row is None or self._is_busy:
            return
        # What is new need not wait for the end of a long pause, unless the target has asked for it.
        is_new = following is not None and following.event_id != self._tried_next
        is_due = time.monotonic() >= self._retry_at
        if is_due or (is_new and self._failures >= _FAILURES and not self._must_wait):
            self._start(row, with_picture=self._failures < _WITH_PICTURE)

    def _start(self, row: Row, *, with_picture: bool) -> None:
        self._is_busy = True
        self._jobs.put((row, with_picture))

    def _work(self) -> None:
        while True:
            row, with_picture = self._jobs.get()
            error: DeliveryError | None = None
            try:
                message = self._compose(self.section, row)
                deliver(self.section, message if with_picture else replace(message, picture=None))
            except DeliveryError as failure:
                error = failure
            # A library's bug must not end the thread, and its text may hold the URL.
            except Exception as failure:
                error = DeliveryError(f"{type(failure).__name__} while it was sent", refused=True)
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._done, row, error)

    def _done(self, row: Row, error: DeliveryError | None) -> None:
        self._is_busy = False
        if error is not None:
            metrics.NOTIFICATIONS.labels(self.section.name, "failed").inc()
        oldest, following = self._first_two
        if oldest is None or row.event_id != oldest.event_id:
            self._done_next(row, error, oldest)
        elif error is None:
            self._finish(row, "delivered")
            if self.fault:
                logger.info("notifications to %s work again", self.section.name)
            self.fault = ""
            self.pump()
        else:
            self._failed(row, error, following)

    def _failed(self, row: Row, error: DeliveryError, following: Row | None) -> None:
        self._failures += 1
        self._refusals += error.refused
        if str(error) != self.fault:
            self.fault = str(error)
            logger.warning("notification to %s failed: %s; trying again", self.section.name, error)
        if self._refusals >= _REFUSALS:
            self._drop(row)
            return
        pause_s = wait_s(self._failures, *_RETRY_S)
        self._retry_at = time.monotonic() + min(max(pause_s, error.wait_s), _RETRY_S[1])
        self._must_wait = error.wait_s > 0
        if self._failures >= _FAILURES and following is not None and not self._must_wait:
            self._tried_next = following.event_id
            self._start(following, with_picture=True)

    def _done_next(self, row: Row, error: DeliveryError | None, oldest: Row | None) -> None:
        """Take note of what became of an event that was tried because the oldest one fails."""
        if error is not None:
            return
        self._count(row, "delivered")
        self._refusals += 1
        if oldest is not None and self._refusals >= _REFUSALS:
            self._drop(oldest)
        else:
            self._retry_at = time.monotonic() + _RETRY_S[0]

    def _drop(self, row: Row) -> None:
        logger.error(
            "notification of %s to %s was refused %d times and is dropped: %s",
            row.event_id,
            self.section.name,
            self._refusals,
            self.fault,
        )
        self._finish(row, "dropped")

    def _finish(self, row: Row, outcome: str) -> None:
        self._failures = self._refusals = 0
        self._tried_next = ""
        self._retry_at = float("-inf")
        self._count(row, outcome)

    def _count(self, row: Row, outcome: str) -> None:
        metrics.NOTIFICATIONS.labels(self.section.name, outcome).inc()
        self._store.notified(self.section.name, row.event_id)


class Notifier:
    """All targets; use it in the event loop's thread.

    Args:
        sections: the targets.
        store: holds what waits for them.
        compose: makes the message of an event; called in a target's thread.
    """

    def __init__(
        self,
        sections: tuple[NotifySection, ...],
        store: Store,
        compose: Callable[[NotifySection, Row], Message],
    ) -> None:
        store.notices.keep_only(section.name for section in sections)
        self._targets = [Target(section, store, compose) for section in sections]

    def pump(self) -> None:
        """Deliver what can be delivered now."""
        for target in self._targets:
            target.pump()

    def problem(self, patience_s: float) -> str:
        """Return which targets an event has waited for that long, and why; empty where there is none."""
        limit_ns = time.time_ns() - patience_s * 1e9
        return "; ".join(
            f"{target.section.name}: {target.fault or 'it does not keep up'}"
            for target in self._targets
            if (row := target.oldest) and row.unix_ns < limit_ns
        )
