"""Which topics are cleared when, and what was cleared recently.

Brokers save retained messages at intervals (mosquitto: every 30 minutes), and one that loses power comes back with what
it saved last. So what was cleared is cleared again on each connection, until a day after the broker confirmed it first.

A broker may close the connection on a message that its ACL forbids, as to a topic of an earlier name of the node: MQTT
3.1.1 has no other answer. So topics are cleared last, one at a time. After a clear has ended a connection, the next
attempt waits 1 to 24 hours.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from tridetr.backoff import wait_s

# The first and the longest, after clearing a topic has ended a connection
_PAUSE_S = 3600.0, 86_400.0
_REPEATED_S = 86_400.0
_SETTING = "cleared"


class Clears:
    """Follows cleared topics and removed entities.

    Args:
        settings: stored settings by name; one of them holds the times.
        save: saves a setting; None deletes it.
    """

    def __init__(
        self, settings: Mapping[str, str], save: Callable[[str, str | None], None]
    ) -> None:
        self._settings = settings
        self._save = save

    def confirmed(self, gone: Collection[str], now_s: float) -> list[str]:
        """Record that the broker has confirmed that ``gone`` is cleared; return what need not be repeated any more.

        Args:
            gone: topics, or other names of what was cleared.
            now_s: Unix time; a time that steps backwards only prolongs the repetition.
        """
        since = self._since()
        over = [name for name in gone if now_s - since.get(name, now_s) >= _REPEATED_S]
        started = {name: now_s for name in gone if since.get(name, now_s + 1) > now_s}
        if over or started:
            # Names that no longer occur are never confirmed again
            old_s = now_s - 2 * _REPEATED_S
            kept = {name: at for name, at in since.items() if name not in over and at > old_s}
            self._keep(kept | started)
        return over

    def used(self, names: Collection[str]) -> None:
        """Forget names that are in use again."""
        since = self._since()
        if not since.keys().isdisjoint(names):
            self._keep({name: time for name, time in since.items() if name not in names})

    def _since(self) -> dict[str, float]:
        try:
            found = json.loads(self._settings[_SETTING])
            return {str(name): float(time) for name, time in found.items()}
        except (KeyError, ValueError, TypeError, AttributeError):
            return {}

    def _keep(self, since: dict[str, float]) -> None:
        self._save(_SETTING, json.dumps(since) if since else None)


class ClearQueue:
    """The topics that are still to be cleared on a connection.

    Args:
        is_own: whether the node may surely write a topic, because it can only be its own.
    """

    def __init__(self, is_own: Callable[[str], bool]) -> None:
        self._is_own = is_own
        self._waiting: dict[str, None] = {}
        self._ends: Counter[str] = Counter()  # connections that each topic has ended
        self._paused_until_s = float("-inf")

    def fill(self, topics: Iterable[str]) -> None:
        """Replace the topics; of those that are as likely to be allowed, the first ones are cleared first."""
        self._waiting = dict.fromkeys(topics)

    def next(self, now_s: float) -> str | None:
        """Return the topic to clear next, or None.

        After a topic has ended a connection, only own topics that have not done so are cleared for some time.

        Args:
            now_s: monotonic time.
        """
        paused = now_s < self._paused_until_s
        return min(
            (topic for topic in self._waiting if not paused or self._rank(topic) == (0, False)),
            key=self._rank,
            default=None,
        )

    def sent(self, topic: str) -> None:
        """Remove a topic that was sent; ``fill`` adds it again if need be."""
        self._waiting.pop(topic, None)

    def confirmed(self, topic: str) -> None:
        """Record that the broker lets the node clear a topic."""
        self._ends.pop(topic, None)

    def ended(self, topic: str, now_s: float) -> float:
        """Record that a connection ended while a topic was being cleared; return the pause in seconds.

        Args:
            topic: the topic.
            now_s: monotonic time.
        """
        self._ends[topic] += 1
        pause_s = wait_s(self._ends[topic], *_PAUSE_S)
        self._paused_until_s = now_s + pause_s
        return pause_s

    def _rank(self, topic: str) -> tuple[int, bool]:
        return self._ends[topic], not self._is_own(topic)
