"""Remember what was cleared at the broker recently: a broker that loses power may come back with what it held before.

Brokers save retained messages at intervals (mosquitto: every 30 minutes). So what was cleared is cleared again on each
connection, until a day after the broker confirmed it first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping

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
