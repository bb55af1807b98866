"""Queues of events for the notification targets, with the changes that are not yet on disk."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping

from tridetr.controller.stored_rows import Notice, Row
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.controller")

LIMIT = 1000  # events that may wait for one target; beyond that the oldest is dropped


class Notices:
    """The notification queues of all targets.

    Attributes:
        waiting: queued rows by target and event ID, oldest first.
        changes: changes not yet written to the file; None = remove the entry.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, OrderedDict[str, Row]] = {}
        self.changes: dict[Notice, Row | None] = {}

    def add(self, row: Row) -> None:
        """Add an event to the queue of each of its targets."""
        for target in row.targets:
            queue = self.waiting.setdefault(target, OrderedDict())
            queue[row.event_id] = self.changes[target, row.event_id] = row
            while len(queue) > LIMIT:
                self.remove(target, next(iter(queue)))
                metrics.NOTIFICATIONS.labels(target, "dropped").inc()
                logger.error(
                    "%d notifications are waiting for %s: the oldest is dropped", LIMIT, target
                )

    def remove(self, target: str, event_id: str) -> None:
        """Remove an event from the queue of a target."""
        if event_id in self.waiting.get(target, ()):
            del self.waiting[target][event_id]
            self.changes[target, event_id] = None

    def drop(self, target: str) -> None:
        """Drop and count the queue of a target that is no longer configured."""
        dropped = self.waiting.pop(target)
        self.changes.update(dict.fromkeys((target, name) for name in dropped))
        metrics.NOTIFICATIONS.labels(target, "dropped").inc(len(dropped))
        logger.error(
            "notifications that were waiting for %s, which is no longer in `notify`, are dropped (%d)",
            target,
            len(dropped),
        )

    def take_over(self, found: Mapping[Notice, Row], renumbered: Mapping[str, Row]) -> None:
        """Merge the entries of a file, which come before those that were added meanwhile.

        Args:
            found: entries of the file, oldest first.
            renumbered: events that were given new numbers, by event ID.
        """
        for (target, event_id), change in self.changes.items():
            if change is not None and event_id in renumbered:
                self.changes[target, event_id] = renumbered[event_id]
        mine = self.waiting
        self.waiting = {}
        for notice, row in [*found.items(), *_flat(mine).items()]:
            if (current := self.changes.get(notice, row)) is not None:
                self.waiting.setdefault(notice[0], OrderedDict())[notice[1]] = current

    def all(self) -> dict[Notice, Row]:
        """Return all queued rows by target and event ID."""
        return _flat(self.waiting)

    def write_all(self) -> None:
        """Mark every queued row as not yet written, for a new file."""
        self.changes.update(self.all())


def _flat(waiting: Mapping[str, Mapping[str, Row]]) -> dict[Notice, Row]:
    return {(target, name): row for target, queue in waiting.items() for name, row in queue.items()}
