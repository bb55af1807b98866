"""Publish the events of the outbox: in order, a bounded number in flight, until each is acknowledged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from tridetr.controller.store import Store
from tridetr.controller.stored_rows import Row
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.controller")

WINDOW = 16  # events in flight; below paho's own limit of 20, so that paho never queues
ACK_TIMEOUT_S = 20.0
_LONGEST_ACK_TIMEOUT_S = 60.0
_ATTEMPTS = 3  # to publish an event that raises an error
# Connections in a row that end before the same event is acknowledged: the broker may refuse its size
_ENDS = 2


class Link(Protocol):
    """The part of the broker connection that the pump uses."""

    @property
    def connected(self) -> bool: ...
    def publish_acknowledged(self, topic: str, payload: str) -> int | None: ...
    def bounce(self) -> None: ...


class OutboxPump:
    """Moves events from the store to the broker.

    An event leaves the store when its PUBACK has arrived, never before. Each event is sent once per connection, oldest
    first; events that were not acknowledged are sent again over the next connection. Nothing else resends: the link
    starts each connection with an empty client. A broker that acknowledged nothing on the last connection gets only
    the oldest event until it acknowledges something. So does one whose connections ended twice before the same event
    was acknowledged, and it gets that event in its short form.

    Args:
        store: holds the events.
        link: the connection.
        compose: returns topic and payload of an event; the second argument is whether the payload must be short.
        monotonic: the clock.
    """

    def __init__(
        self,
        store: Store,
        link: Link,
        compose: Callable[[Row, bool], tuple[str, str]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._link = link
        self._compose = compose
        self._monotonic = monotonic
        self._in_flight: dict[int, str] = {}  # message ID -> event ID
        self._progress_at = monotonic()
        self._patience_s = ACK_TIMEOUT_S
        self._window = WINDOW
        self._errors = 0  # of the next event
        self._suspect = ""  # ID of the oldest event in flight when the last connection ended
        self._ends = 0  # connections in a row that ended with it

    def on_up(self) -> None:
        """Send all waiting events over the new connection."""
        oldest = next(iter(self._in_flight.values()), "")
        self._ends = (self._ends if oldest == self._suspect else 0) + bool(oldest)
        self._suspect = oldest
        if self._ends >= _ENDS:
            self._window = 1
            if self._ends == _ENDS:
                logger.warning(
                    "the connection to the broker ended %d times before it acknowledged event %s (a limit on the size "
                    "of messages?): it is sent with its best box only",
                    _ENDS,
                    oldest,
                )
        self._in_flight.clear()
        self.pump()

    def on_ack(self, mid: int) -> None:
        """Remove an event from the outbox after its acknowledgement."""
        oldest = next(iter(self._in_flight), None)
        event_id = self._in_flight.pop(mid, None)
        if event_id is None:
            return  # another message: paho also reports those with QoS 0
        row = self._store.confirm(event_id)
        if row is not None:
            metrics.EVENTS_PUBLISHED.labels(row.camera, row.kind).inc()
        if mid == oldest:
            self.on_answer()
        else:  # brokers acknowledge in order: that of an older event may be lost
            self.pump()

    def on_answer(self) -> None:
        """Reset the timeout and the window: the broker has acknowledged a message."""
        self._progress_at = self._monotonic()
        self._patience_s, self._window = ACK_TIMEOUT_S, WINDOW
        self.pump()

    def pump(self) -> None:
        """Send waiting events, up to the window."""
        if not self._link.connected:
            return
        if not self._in_flight:
            self._progress_at = self._monotonic()
        sent = set(self._in_flight.values())
        for row in self._store.outbox.values():
            if len(self._in_flight) >= self._window:
                return
            if row.event_id in sent:
                continue
            is_short = row.event_id == self._suspect and self._ends >= _ENDS
            try:
                mid = self._link.publish_acknowledged(*self._compose(row, is_short))
            # Whatever is wrong with one event must not end the process, nor block the events after it.
            except Exception as error:
                self._refuse(row, error)
                return
            if mid is None:
                return
            self._in_flight[mid] = row.event_id
            self._errors = 0

    def _refuse(self, row: Row, error: Exception) -> None:
        """Drop an event that cannot be published, after a few attempts, and continue with the next one."""
        self._errors += 1
        if self._errors < _ATTEMPTS:
            return  # the next call tries it again
        self._errors = 0
        logger.error(
            "event %s of camera %s cannot be published and is dropped: %r",
            row.event_id,
            row.camera,
            error,
        )
        metrics.OUTBOX_DROPPED.inc()
        self._store.confirm(row.event_id)
        self.pump()

    def watch(self) -> None:
        """Reconnect to a broker that does not acknowledge the oldest event, after growing timeouts."""
        if (
            self._link.connected
            and self._in_flight
            and self._monotonic() - self._progress_at > self._patience_s
        ):
            logger.warning(
                "the broker has not acknowledged the oldest message for %d s: reconnecting",
                self._patience_s,
            )
            self._patience_s = min(2 * self._patience_s, _LONGEST_ACK_TIMEOUT_S)
            self._window = 1
            self._suspect, self._ends = "", 0  # it is not the size of an event
            self._progress_at = self._monotonic()
            self._link.bounce()

    @property
    def idle(self) -> bool:
        """Whether no event is waiting to be sent or acknowledged."""
        return not self._in_flight and not self._store.outbox
