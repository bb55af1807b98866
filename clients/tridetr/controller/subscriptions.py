"""Which topics are subscribed when, to a broker that may end the connection because of a subscription. Pure.

A broker that does not take a subscription answers with a failure code, or ends the connection without a reason. So the
topics are subscribed in groups, one at a time, before anything is published: the group that waits for its answer when a
connection ends is the suspect.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

logger = logging.getLogger("tridetr.controller")

_GROUP = 8  # topics in one SUBSCRIBE; AWS IoT Core ends the connection on more
_ENDS = 2  # connections in a row that end before the same group is answered, from which on it is left out
_NAMED = 5  # refused topics that are named


class Subscriptions:
    """The subscriptions of each connection.

    A group that has ended two connections in a row is left out until one has lasted.

    Args:
        topics: the topics, each a valid filter.

    Attributes:
        fault: which subscriptions have no effect, and why; empty = none.
    """

    def __init__(self, topics: list[str]) -> None:
        self.fault = ""
        self._groups = [tuple(topics[i : i + _GROUP]) for i in range(0, len(topics), _GROUP)]
        self._waiting: list[tuple[str, ...]] = []
        self._asked: tuple[str, ...] = ()
        self._refused: list[str] = []
        self._ends: dict[tuple[str, ...], int] = {}

    def start(self) -> None:
        """Start with a new connection."""
        self._asked, self._refused = (), []
        self._waiting = [group for group in self._groups if self._ends.get(group, 0) < _ENDS]

    def next(self) -> tuple[str, ...]:
        """Return the topics to subscribe next, in one message; empty when all have been answered."""
        self._asked = self._waiting.pop(0) if self._waiting else ()
        if not self._asked:
            self._report()
        return self._asked

    def answered(self, failures: Iterable[bool]) -> bool:
        """Record the answer to the last subscription.

        Args:
            failures: for each of its topics, whether the broker refuses it.

        Returns:
            Whether an answer was due.
        """
        asked, self._asked = self._asked, ()
        self._refused += [topic for topic, failed in zip(asked, failures, strict=False) if failed]
        self._ends.pop(asked, None)
        return bool(asked)

    def ended(self, *, was_up: bool) -> None:
        """Record the end of the connection; ``was_up`` is whether messages could be published over it."""
        asked, self._asked = self._asked, ()
        if was_up:  # the broker may take what was left out by now
            self._ends.clear()
        elif asked:
            self._ends[asked] = self._ends.get(asked, 0) + 1

    def _report(self) -> None:
        parts = []
        if self._refused:
            more = f" and {len(self._refused) - _NAMED} more" * (len(self._refused) > _NAMED)
            parts.append(
                f"the broker refuses the subscription to {', '.join(self._refused[:_NAMED])}{more}, so what is sent "
                "there has no effect: allow the node to read it in the broker's ACL"
            )
        left_out = [topic for group, ends in self._ends.items() if ends >= _ENDS for topic in group]
        if left_out:
            parts.append(
                "the connection ended repeatedly before the broker answered the subscription to "
                f"{', '.join(left_out)} (an ACL that forbids one of them?), so they are not subscribed and what is "
                "sent there has no effect: allow the node to read them in the broker's ACL, and restart the node"
            )
        fault = "; ".join(parts)
        if fault and fault != self.fault:
            logger.warning("%s", fault)
        self.fault = fault
