"""Publish the events of the outbox: in order, a bounded number in flight, until each is acknowledged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tridetr.backoff import wait_s
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
# More of them, soon after its short form was sent: the broker may refuse its topic
_REFUSALS = 2
_AT_ONCE_S = 5.0  # a connection that ends later does not end because of the event: the network may have failed
# The first and the longest, before an event of a refused topic is sent again
_PAUSE_S = 60.0, 600.0
_STEADY_S = 10.0  # how long a connection must last before that
_NAMED = 5  # refused topics that are named


@dataclass(frozen=True, slots=True)
class _Sent:
    """An event in flight, and when it was sent (monotonic) [s]."""

    event_id: str
    camera: str
    topic: str
    at_s: float


@dataclass(frozen=True, slots=True)
class _Refused:
    """A topic whose events wait: the connections that they ended, and when the next attempt is due (monotonic) [s]."""

    topic: str
    ends: int
    due_s: float


class Link(Protocol):
    """The part of the broker connection that the pump uses."""

    @property
    def connected(self) -> bool: ...
    @property
    def ended_s(self) -> float: ...
    def publish_acknowledged(self, topic: str, payload: str) -> int | None: ...
    def bounce(self) -> None: ...


class OutboxPump:
    """Moves events from the store to the broker.

    An event leaves the store when its PUBACK has arrived, never before. Each event is sent once per connection, oldest
    first; events that were not acknowledged are sent again over the next connection. Nothing else resends: the link
    starts each connection with an empty client. A broker that acknowledged nothing on the last connection gets only
    the oldest event until it acknowledges something. So does one whose connections ended twice before the same event
    was acknowledged, and it gets that event in its short form. If that one ends connections too, the broker may refuse
    the camera's topic: its events wait while those of other cameras are sent. The oldest one is tried again after
    growing pauses, when nothing else is in flight that the connection could lose.

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
        self._in_flight: dict[int, _Sent] = {}  # by message ID
        self._refused: dict[str, _Refused] = {}  # by camera
        self._up_s = monotonic()  # when the connection began
        self._progress_at = monotonic()
        self._patience_s = ACK_TIMEOUT_S
        self._window = WINDOW
        self._errors = 0  # of the next event
        self._suspect = ""  # ID of the oldest event in flight when the last connection ended
        self._ends = 0  # connections in a row that ended with it
        self._refusals = 0  # those that its short form ended

    def on_up(self) -> None:
        """Send all waiting events over the new connection."""
        sent = next(iter(self._in_flight.values()), None)
        self._in_flight.clear()
        self._up_s = self._monotonic()
        if sent is not None and sent.camera in self._refused:
            self._set_aside(sent)
        elif sent is not None:
            self._suspect_oldest(sent)
        else:
            self._suspect = ""
        self.pump()

    def _suspect_oldest(self, sent: _Sent) -> None:
        """Count an end of the connection against the event that was the oldest in flight."""
        if sent.event_id != self._suspect:
            self._suspect, self._ends, self._refusals = sent.event_id, 0, 0
        if self._ends >= _ENDS and self._link.ended_s - sent.at_s <= _AT_ONCE_S:
            self._refusals += 1
        self._ends += 1
        if self._refusals >= _REFUSALS:
            self._set_aside(sent)
            logger.warning("%s", self.fault)
            self._suspect, self._window = "", WINDOW
        elif self._ends >= _ENDS:
            self._window = 1
            if self._ends == _ENDS:
                logger.warning(
                    "the connection to the broker ended %d times before it acknowledged event %s (a limit on the size "
                    "of messages?): it is sent with its best box only",
                    _ENDS,
                    sent.event_id,
                )

    def _set_aside(self, sent: _Sent) -> None:
        """Let the events of a camera wait: the connection ended with one of them."""
        before = self._refused.get(sent.camera)
        ends = 0 if before is None else before.ends
        if ends == 0 or self._link.ended_s - sent.at_s <= _AT_ONCE_S:
            ends += 1
        due_s = self._monotonic() + wait_s(ends, *_PAUSE_S)
        self._refused[sent.camera] = _Refused(sent.topic, ends, due_s)

    @property
    def fault(self) -> str:
        """Which topics the broker seems to refuse; empty = none."""
        if not self._refused:
            return ""
        topics = [one.topic for one in self._refused.values()]
        more = f" and {len(topics) - _NAMED} more" * (len(topics) > _NAMED)
        return (
            f"the connection ends when an event is published to {', '.join(topics[:_NAMED])}{more} (an ACL?), so these "
            "events wait and are tried again after 1 to 10 min, or after a restart: allow the node to write the topic"
        )

    def on_ack(self, mid: int) -> None:
        """Remove an event from the outbox after its acknowledgement."""
        sent = self._in_flight.pop(mid, None)
        if sent is None:
            return  # another message: paho also reports those with QoS 0
        if self._refused.pop(sent.camera, None):
            logger.warning("the broker acknowledges the events of %s again", sent.topic)
        row = self._store.confirm(sent.event_id)
        if row is not None:
            metrics.EVENTS_PUBLISHED.labels(row.camera, row.kind).inc()
        self.on_answer()

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
        sent = {one.event_id for one in self._in_flight.values()}
        for row in self._store.outbox.values():
            if len(self._in_flight) >= self._window:
                return
            if row.event_id in sent or row.camera in self._refused:
                continue
            if not self._send(row, row.event_id == self._suspect and self._ends >= _ENDS):
                return
        now_s = self._monotonic()
        if self._refused and not self._in_flight and now_s - self._up_s >= _STEADY_S:
            for row in self._store.outbox.values():
                if row.camera in self._refused and now_s >= self._refused[row.camera].due_s:
                    self._send(row, is_short=True)
                    return

    def _send(self, row: Row, is_short: bool) -> bool:
        """Send an event; return whether the next one can follow."""
        try:
            topic, text = self._compose(row, is_short)
            mid = self._link.publish_acknowledged(topic, text)
        # Whatever is wrong with one event must not end the process, nor block the events after it.
        except Exception as error:
            self._drop_after_errors(row, error)
            return False
        if mid is None:
            return False
        self._in_flight[mid] = _Sent(row.event_id, row.camera, topic, self._monotonic())
        self._errors = 0
        return True

    def _drop_after_errors(self, row: Row, error: Exception) -> None:
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
        """Reconnect to a broker that acknowledges nothing, after growing timeouts."""
        if (
            self._link.connected
            and self._in_flight
            and self._monotonic() - self._progress_at > self._patience_s
        ):
            logger.warning(
                "the broker has acknowledged nothing for %d s: reconnecting", self._patience_s
            )
            self._patience_s = min(2 * self._patience_s, _LONGEST_ACK_TIMEOUT_S)
            self._window = 1
            self._suspect, self._ends = "", 0  # it is not the size of an event
            self._progress_at = self._monotonic()
            self._link.bounce()

    @property
    def idle(self) -> bool:
        """Whether no event is waiting to be sent or acknowledged, except on topics that the broker refuses."""
        return not self._in_flight and all(
            row.camera in self._refused for row in self._store.outbox.values()
        )
