"""Which large retained messages are sent when, to a broker that may close the connection on their size.

MQTT 3.1.1 brokers do not report their limit. So messages that can be longer than an event are sent last, one at a time,
the shortest first. If two connections end soon after the same one was sent, or four at any time before the broker has
acknowledged it, that one and those that are at least as long are left out for the lifetime of the next connection.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

logger = logging.getLogger("tridetr.controller")

# Bytes; no event is shorter, so a broker that takes events takes what is up to this size
_LARGE = 512
_SUSPICION = 4  # from which on a message is left out
_SOON, _LATE = 2, 1  # how much each connection adds that ends before the message is acknowledged
_SOON_S = 5.0  # one that ends later may have ended because the network failed


@dataclass(slots=True)
class _Refused:
    """The shortest message that has ended a connection since a longer one was acknowledged."""

    topic: str = ""
    size: float = float("inf")
    suspicion: int = 0


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message that was sent: its topic, its size in bytes, and when [s]."""

    topic: str
    size: int
    at_s: float


def is_large(topic: str, text: str) -> bool:
    """Return whether a message can be too long for a broker that takes events."""
    return _size(topic, text) > _LARGE


class LargeMessages:
    """The large retained messages that are still to be sent on a connection.

    The node's own topics and all others are treated separately, because a broker's ACL may forbid the others.

    Args:
        root: first levels of the node's own topics.
    """

    def __init__(self, root: str) -> None:
        self._root = f"{root}/"
        self._waiting: dict[str, str] = {}
        self._in_flight: _Sent | None = None
        self._refused = {True: _Refused(), False: _Refused()}  # by whether the topic is own

    @property
    def fault(self) -> str:
        """Which messages are left out on this connection, and why; empty = none."""
        return "; ".join(
            f"the connection ended repeatedly while {one.topic} ({one.size} bytes) was published (a limit on the size "
            "of messages, or an ACL), so it and similar messages of at least that size are not published: raise the "
            "broker's limit (mosquitto: max_packet_size), or allow the node to write the topic"
            for one in self._refused.values()
            if one.suspicion >= _SUSPICION
        )

    def put(self, topic: str, text: str) -> None:
        """Add a message; it replaces one of the same topic that was not sent."""
        self._waiting[topic] = text

    def drop(self, topic: str) -> None:
        """Remove the message of a topic, if it was not sent."""
        self._waiting.pop(topic, None)

    def next(self) -> tuple[str, str] | None:
        """Return topic and text of the message to send next, or None."""
        sizes = {topic: _size(topic, text) for topic, text in self._waiting.items()}
        found = [topic for topic, size in sizes.items() if not self._is_left_out(topic, size)]
        topic = min(found, key=lambda name: (not self._is_own(name), sizes[name]), default=None)
        return None if topic is None else (topic, self._waiting[topic])

    def sent(self, topic: str, now_s: float) -> None:
        """Record that the message of a topic was sent; the time is monotonic [s]."""
        self._in_flight = _Sent(topic, _size(topic, self._waiting.pop(topic)), now_s)

    def is_in_flight(self, topic: str) -> bool:
        """Return whether the message of this topic was sent and not acknowledged."""
        return self._in_flight is not None and self._in_flight.topic == topic

    def forget(self) -> None:
        """Wait no longer for the acknowledgement of the message that was sent."""
        self._in_flight = None

    def confirmed(self) -> None:
        """Record that the broker has acknowledged the message that was sent."""
        sent, self._in_flight = self._in_flight, None
        if sent is not None and sent.size >= self._refused[self._is_own(sent.topic)].size:
            self._refused[self._is_own(sent.topic)] = _Refused()

    def on_up(self, ended_s: float) -> None:
        """Start with a new connection: nothing waits, and what has ended the last ones is left out.

        Args:
            ended_s: When the last connection ended (monotonic) [s].
        """
        self._waiting.clear()
        sent, self._in_flight = self._in_flight, None
        suspicion = 0
        if sent is not None:
            suspicion = self._suspect(sent, is_late=ended_s - sent.at_s > _SOON_S)
        if suspicion >= _SUSPICION:
            logger.warning("%s", self.fault)
        else:  # it may have been an outage, and the broker may take what was left out by now: one attempt
            for one in self._refused.values():
                one.suspicion = min(one.suspicion, _SUSPICION - 1)

    def _suspect(self, sent: _Sent, *, is_late: bool) -> int:
        """Count an end of the connection against a message; return how suspicious similar ones are by now."""
        is_own = self._is_own(sent.topic)
        if is_late and sent.topic != self._refused[is_own].topic:
            if self._refused[is_own].suspicion >= _SUSPICION:
                return 0  # an outage: what is refused was left out
            self._refused[is_own] = _Refused()  # only late ends with the same message count
        refused = self._refused[is_own]
        refused.suspicion += _LATE if is_late else _SOON
        if sent.size <= refused.size:
            refused.topic, refused.size = sent.topic, sent.size
        return refused.suspicion

    def _is_own(self, topic: str) -> bool:
        return topic.startswith(self._root)

    def _is_left_out(self, topic: str, size: int) -> bool:
        refused = self._refused[self._is_own(topic)]
        return refused.suspicion >= _SUSPICION and size >= refused.size


def _size(topic: str, text: str) -> int:
    return len(topic.encode()) + len(text.encode())
