"""Whether notifications are wanted: a switch of the node and one of each camera, set by hand or by a schedule.

Arming decides who is notified and never what is decided. A switch that is set by hand holds until its schedule next
changes; without a schedule it holds until it is set again. It survives restarts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

from tridetr.config import Config, NotifySection
from tridetr.config.schedule import Schedule
from tridetr.controller.stored_rows import Row

_SETTING = "armed/"
NODE = ""
_CLOCKS_DIFFER_S = 60.0  # an event may be a little older than the switch that is asked about it


class Arming:
    """All switches of a node; the node's own has the empty name.

    Args:
        config: cameras and schedules.
        settings: what was set by hand before.
        save: keeps a setting; None forgets it.
    """

    def __init__(
        self,
        config: Config,
        settings: Mapping[str, str],
        save: Callable[[str, str | None], None],
    ) -> None:
        self._settings = settings
        self._save = save
        self._schedules = {NODE: Schedule(config.armed.schedule)}
        for name, camera in config.cameras.items():
            self._schedules[name] = Schedule(camera.armed.schedule)
        for setting in list(settings):
            if setting.startswith(_SETTING) and setting[len(_SETTING) :] not in self._schedules:
                save(setting, None)

    def __contains__(self, switch: str) -> bool:
        return switch in self._schedules

    def is_on(self, switch: str, unix_s: float) -> bool:
        """Return whether a switch was on at a moment."""
        schedule = self._schedules[switch]
        by_hand = self._by_hand(switch)
        if by_hand is None:
            return schedule.holds(unix_s)
        on, set_at = by_hand
        changed_at = schedule.changed_at(unix_s)
        # Set in the future: the clock was wrong then, and the schedule would never take over again.
        if changed_at is None or changed_at <= set_at <= unix_s + _CLOCKS_DIFFER_S:
            return on
        return schedule.holds(unix_s)

    def is_armed(self, camera: str, unix_s: float) -> bool:
        """Return whether both the node and the camera were armed at a moment."""
        return self.is_on(NODE, unix_s) and self.is_on(camera, unix_s)

    def set(self, switch: str, on: bool, unix_s: float) -> None:
        """Set a switch by hand."""
        self._save(f"{_SETTING}{switch}", json.dumps({"on": on, "unix_s": round(unix_s, 3)}))

    def state(self, unix_s: float) -> dict[str, bool]:
        """Return all switches."""
        return {switch: self.is_on(switch, unix_s) for switch in self._schedules}

    def _by_hand(self, switch: str) -> tuple[bool, float] | None:
        try:
            found = json.loads(self._settings[f"{_SETTING}{switch}"])
            return bool(found["on"]), float(found["unix_s"])
        except (KeyError, ValueError, TypeError):
            return None


class Audience:
    """Decides which targets get an event."""

    def __init__(self, config: Config, arming: Arming) -> None:
        self._arming = arming
        self._targets = [(target, Schedule(target.schedule)) for target in config.notify]

    def targets_of(self, row: Row) -> tuple[str, ...]:
        """Return the names of the targets that are to get an event of a visit."""
        action = row.event_id.rpartition(":")[2]
        class_name = str(json.loads(row.details)["class"])
        return tuple(
            target.name
            for target in self._wanting(action, row.camera, row.unix_ns / 1e9)
            if not target.classes or class_name in target.classes
        )

    def wanting(self, action: str, camera: str, unix_s: float) -> tuple[str, ...]:
        """Return the names of the targets that want to know an action of a camera at a moment, whatever its class."""
        return tuple(target.name for target in self._wanting(action, camera, unix_s))

    def _wanting(self, action: str, camera: str, unix_s: float) -> Iterator[NotifySection]:
        for target, schedule in self._targets:
            if (
                action in target.events
                and (not target.cameras or camera in target.cameras)
                and schedule.holds(unix_s)
                and (target.when == "always" or self._is_armed(camera, unix_s))
            ):
                yield target

    def _is_armed(self, camera: str, unix_s: float) -> bool:
        # A camera that was just removed from the configuration has the node's switch only.
        switch = camera if camera in self._arming else NODE
        return self._arming.is_armed(switch, unix_s)
