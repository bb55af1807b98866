"""Sends the events of the outbox: in order, a bounded number at a time, until each is acknowledged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from tridetr.controller.database import Row
from tridetr.controller.store import Store
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.controller")

WINDOW = 16  # below paho's own limit of 20, so that paho never queues
ACK_TIMEOUT_S = 20.0


class Link(Protocol):
    """What the pump needs of the connection."""

    @property
    def connected(self) -> bool: ...
    def publish_acknowledged(self, topic: str, payload: str) -> int | None: ...
    def bounce(self) -> None: ...


class OutboxPump:
    """Moves events from the store to the broker.

    An event leaves the store when its PUBACK has come, never before. After a reconnect paho repeats what was under
    way; new events wait until that is acknowledged, so that the order holds at the consumer.
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
        self._under_way: dict[int, int] = {}  # message id -> number of the event
        self._sent = 0  # number of the newest event that was sent
        self._repeating = False
        self._progress_at = monotonic()

    def on_up(self) -> None:
        """The connection stands (again)."""
        self._repeating = bool(self._under_way)
        self._progress_at = self._monotonic()
        self.pump()

    def on_ack(self, mid: int) -> None:
        """The broker has a message."""
        seq = self._under_way.pop(mid, None)
        if seq is None:
            return  # of a retained message
        self._progress_at = self._monotonic()
        row = self._store.confirm(seq)
        if row is not None:
            metrics.EVENTS_PUBLISHED.labels(row.camera, row.kind).inc()
        if not self._under_way:
            self._repeating = False
        self.pump()

    def pump(self) -> None:
        """Send what may be sent now."""
        if not self._link.connected or self._repeating:
            return
        if not self._under_way:
            self._progress_at = self._monotonic()
        for seq, row in self._store.outbox.items():
            if len(self._under_way) >= WINDOW:
                return
            if seq <= self._sent:
                continue
            mid = self._link.publish_acknowledged(*self._compose(row))
            if mid is None:
                return
            self._under_way[mid] = seq
            self._sent = seq

    def watch(self) -> None:
        """Call now and then: a broker that answers nothing gets a new connection."""
        if (
            self._link.connected
            and self._under_way
            and self._monotonic() - self._progress_at > ACK_TIMEOUT_S
        ):
            logger.warning("the broker acknowledges nothing: connecting anew")
            # All is sent again from the oldest on, whatever paho still repeats: consumers know events by their id.
            self._under_way.clear()
            self._sent = 0
            self._repeating = False
            self._progress_at = self._monotonic()
            self._link.bounce()

    @property
    def idle(self) -> bool:
        """Whether nothing waits for an acknowledgement."""
        return not self._under_way and not self._store.outbox
