"""How long events have been waiting in a queue, regardless of changes of the wall clock."""

from __future__ import annotations

import time
from collections import OrderedDict
from itertools import takewhile

from tridetr.controller.stored_rows import Row


class WaitingTime:
    """Measures how long the oldest event of a queue has been waiting; call it regularly.

    Events of an earlier process count from the first call: the wall clock may have been changed since.
    """

    def __init__(self) -> None:
        self._since: dict[str, float] = {}  # event ID: time.monotonic, oldest first

    def of_oldest(self, queue: OrderedDict[str, Row]) -> float:
        """Return the seconds for which the first event has been seen in the queue; 0 if it is empty.

        Args:
            queue: waiting events by ID, oldest first.
        """
        now = time.monotonic()
        while self._since and (first := next(iter(self._since))) not in queue:
            del self._since[first]
        new = [*takewhile(lambda event_id: event_id not in self._since, reversed(queue))]
        self._since |= dict.fromkeys(reversed(new), now)
        return now - self._since.setdefault(next(iter(queue)), now) if queue else 0.0
