"""Brings events to the targets of notifications: in order, one at a time for each, in a thread of its own.

A target that fails or stalls delays itself only. An event stays in the database until its target has taken it; what
was under way when the process died is sent again, under the same id.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
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
_REFUSALS = 5  # of one message, until the next one gets its turn


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
        self._jobs: SimpleQueue[Row] = SimpleQueue()
        self._is_busy = False
        self._failures = 0
        self._retry_at = float("-inf")
        for outcome in ("delivered", "failed", "dropped"):
            metrics.NOTIFICATIONS.labels(section.name, outcome)
        # A daemon: a server that stalls must not keep the process from ending.
        threading.Thread(target=self._work, name=f"notify {section.name}", daemon=True).start()

    @property
    def oldest(self) -> Row | None:
        """The event that is delivered next."""
        return next(iter(self._store.notices.waiting.get(self.section.name, {}).values()), None)

    def pump(self) -> None:
        """Hand the oldest event to the thread, if it is time."""
        waiting = len(self._store.notices.waiting.get(self.section.name, ()))
        metrics.NOTIFICATIONS_WAITING.labels(self.section.name).set(waiting)
        row = self.oldest
        if row is not None and not self._is_busy and time.monotonic() >= self._retry_at:
            self._is_busy = True
            self._jobs.put(row)

    def _work(self) -> None:
        while True:
            row = self._jobs.get()
            error: DeliveryError | None = None
            try:
                deliver(self.section, self._compose(self.section, row))
            except DeliveryError as failure:
                error = failure
            # A library's bug must not end the thread, and its text may hold the URL.
            except Exception as failure:
                error = DeliveryError(f"{type(failure).__name__} while it was sent", refused=True)
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._done, row, error)

    def _done(self, row: Row, error: DeliveryError | None) -> None:
        self._is_busy = False
        name = self.section.name
        if error is None:
            self._finish(row, "delivered")
            if self.fault:
                logger.info("notifications to %s work again", name)
            self.fault = ""
            self.pump()
            return
        metrics.NOTIFICATIONS.labels(name, "failed").inc()
        self._failures += 1
        if str(error) != self.fault:
            self.fault = str(error)
            logger.warning("notification to %s failed: %s; trying again", name, error)
        if error.refused and self._failures >= _REFUSALS:
            logger.error(
                "notification of %s to %s was refused %d times and is dropped: %s",
                row.event_id,
                name,
                self._failures,
                error,
            )
            self._finish(row, "dropped")
            return
        pause_s = wait_s(self._failures, *_RETRY_S)
        self._retry_at = time.monotonic() + min(max(pause_s, error.wait_s), _RETRY_S[1])

    def _finish(self, row: Row, outcome: str) -> None:
        self._failures = 0
        self._retry_at = float("-inf")
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
