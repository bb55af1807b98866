"""Sends the events of the outbox: in order, a bounded number at a time, until each is acknowledged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from tridetr.controller.store import Store
from tridetr.controller.stored_rows import Row
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.controller")

WINDOW = 16  # below paho's own limit of 20, so that paho never queues
ACK_TIMEOUT_S = 20.0
_LONGEST_ACK_TIMEOUT_S = 60.0


class Link(Protocol):
    """What the pump needs of the connection."""

    @property
    def connected(self) -> bool: ...
    def publish_acknowledged(self, topic: str, payload: str) -> int | None: ...
    def bounce(self) -> None: ...


class OutboxPump:
    """Moves events from the store to the broker.

    An event leaves the store when its PUBACK has come, never before. Each connection gets each event once, oldest
    first; what it did not acknowledge is sent again over the next one. Nothing else repeats anything: the link begins
    each connection with an empty client. A broker that acknowledged nothing on the last connection gets only the
    oldest event until it acknowledges something.
    """

    def __init__(
        self,
        store: Store,
        link: Link,
        compose: Callable[[Row], tuple[str, str]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._link = link
        self._compose = compose
        self._monotonic = monotonic
        self._under_way: dict[int, str] = {}  # message id -> id of the event
        self._progress_at = monotonic()
        self._patience_s = ACK_TIMEOUT_S
        self._window = WINDOW

    def on_up(self) -> None:
        """Send everything that waits over the new connection."""
        self._under_way.clear()
        self.pump()

    def on_ack(self, mid: int) -> None:
        """Take an event out of the outbox: the broker has it."""
        event_id = self._under_way.pop(mid, None)
        if event_id is None:
            return  # of another message, perhaps one that no broker acknowledges
        row = self._store.confirm(event_id)
        if row is not None:
            metrics.EVENTS_PUBLISHED.labels(row.camera, row.kind).inc()
        self.on_answer()

    def on_answer(self) -> None:
        """Trust the broker again: it has acknowledged something."""
        self._progress_at = self._monotonic()
        self._patience_s, self._window = ACK_TIMEOUT_S, WINDOW
        self.pump()

    def pump(self) -> None:
        """Send what may be sent now."""
        if not self._link.connected:
            return
        if not self._under_way:
            self._progress_at = self._monotonic()
        sent = set(self._under_way.values())
        for row in self._store.outbox.values():
            if len(self._under_way) >= self._window:
                return
            if row.event_id in sent:
                continue
            mid = self._link.publish_acknowledged(*self._compose(row))
            if mid is None:
                return
            self._under_way[mid] = row.event_id

    def watch(self) -> None:
        """Give a broker that acknowledges nothing a new connection, after growing pauses."""
        if (
            self._link.connected
            and self._under_way
            and self._monotonic() - self._progress_at > self._patience_s
        ):
            logger.warning(
                "the broker has acknowledged nothing for %d s: connecting again", self._patience_s
            )
            self._patience_s = min(2 * self._patience_s, _LONGEST_ACK_TIMEOUT_S)
            self._window = 1
            self._progress_at = self._monotonic()
            self._link.bounce()

    @property
    def idle(self) -> bool:
        """Whether nothing waits for an acknowledgement."""
        return not self._under_way and not self._store.outbox
