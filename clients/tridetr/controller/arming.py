"""Arm and disarm notifications: one switch for the node and one per camera, set manually or by a schedule.

Arming affects who is notified, never what is decided. A switch that was set manually keeps its value until its
schedule next changes; without a schedule it keeps it until it is set again. Switches survive restarts; while what was
stored cannot be read, they count as on until their schedule next changes. When the clock is changed, the time since a
switch was set counts, which the boot clock measures.

Until the machine's clock is believed, all schedules count as active: a machine without a battery starts with an old
clock, and would take the night for the evening before.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from tridetr import boot_clock
from tridetr.config import Config, NotifySection
from tridetr.config.schedule import Schedule
from tridetr.controller.state_machine import Transition
from tridetr.controller.stored_rows import Row
from tridetr.controller.visits import JOINED
from tridetr.local_time import describe_time_zone, time_zone_fault

logger = logging.getLogger("tridetr.controller")

_SETTING = "armed/"
NODE = ""
JOINED_S = 60.0  # time after an arrival in which its targets are not notified of classes that join
_CLOCKS_DIFFER_S = 60.0  # tolerance between the clock of an event and that of a switch


class _Manual(NamedTuple):
    """A manual setting: its state, and when it was made by the wall clock and the boot clock of then [s].

    ``over_unix_s`` is when its schedule ended it; infinite if it has not.
    """

    on: bool
    unix_s: float
    boot_id: str
    boot_s: float
    over_unix_s: float


class Arming:
    """All arming switches of a node; the node's own switch has an empty name.

    Args:
        config: cameras and schedules.
        settings: stored settings by name; those that start with ``armed/`` were set manually.
        save: stores a setting by name; a value of None deletes it.
        are_known: returns whether the settings that were stored before the start have been read.
        is_clock_believed: returns whether the wall clock can be used; asked until it can.
    """

    def __init__(
        self,
        config: Config,
        settings: Mapping[str, str],
        save: Callable[[str, str | None], None],
        are_known: Callable[[], bool],
        is_clock_believed: Callable[[], bool] = boot_clock.is_believed,
    ) -> None:
        self._settings = settings
        self._save = save
        self._are_known = are_known
        self._started_s = time.time()
        self._is_clock_believed = is_clock_believed
        self._has_clock = is_clock_believed()
        self._boot_id = boot_clock.boot_id()
        self._offset_s: float | None = None  # wall clock ahead of the boot clock, when last checked
        self._schedules = {NODE: Schedule(config.armed.schedule)}
        for name, camera in config.cameras.items():
            self._schedules[name] = Schedule(camera.armed.schedule)
        for setting in list(settings):
            if setting.startswith(_SETTING) and setting[len(_SETTING) :] not in self._schedules:
                save(setting, None)
        if not are_known():
            logger.warning(
                "the stored switches cannot be read: they count as on until they can be, or their schedule changes"
            )
        if config.has_schedules:
            _log_time_zone()
        if config.has_schedules and not self._has_clock:
            logger.warning(
                "the machine was started, and neither a time server nor a clock chip has confirmed its clock yet: "
                "all schedules count as active until then, for half an hour at most"
            )

    def __contains__(self, switch: str) -> bool:
        return switch in self._schedules

    def is_on(self, switch: str, unix_s: float) -> bool:
        """Return whether a switch was on at a Unix time."""
        schedule = self._schedules[switch]
        manual_on = self._manual_on(switch, unix_s)
        if manual_on is not None:
            return manual_on
        return self.holds(schedule, unix_s) or self._may_be_armed(schedule, unix_s)

    def _manual_on(self, switch: str, unix_s: float) -> bool | None:
        """Return the manual state of a switch at a Unix time; None if none applies."""
        schedule = self._schedules[switch]
        manual = self._manual_setting(switch)
        if manual is None or unix_s >= manual.over_unix_s:
            return None
        changed_at = schedule.changed_at(unix_s)
        if changed_at is None:
            return manual.on
        if not self._has_clock:
            # Whether the schedule has changed since an earlier boot is unknown.
            return manual.on or manual.boot_id != self._boot_id
        set_at = self._set_at(manual)
        # A setting from the future was made with a wrong clock. It may arm, until `check_clock` corrects it.
        if changed_at <= set_at and (manual.on or set_at <= unix_s + _CLOCKS_DIFFER_S):
            return manual.on
        return None

    def _may_be_armed(self, schedule: Schedule, unix_s: float) -> bool:
        """Return whether a setting that arms, but could not be read, can still apply at a Unix time."""
        if self._are_known():
            return False
        changed_at = schedule.changed_at(unix_s)
        return changed_at is None or changed_at <= self._started_s

    def _set_at(self, manual: _Manual) -> float:
        """Return when a setting was made, in the wall clock's present time [Unix s]."""
        if self._offset_s is None or manual.boot_id != self._boot_id:
            return manual.unix_s
        set_at = self._offset_s + manual.boot_s
        # The boot clock does not count for how long a virtual machine was paused: that must not disarm longer.
        later_s = set_at - manual.unix_s
        is_changed = abs(later_s) > _CLOCKS_DIFFER_S and (manual.on or later_s < 0)
        return set_at if is_changed else manual.unix_s

    def holds(self, schedule: Schedule, unix_s: float) -> bool:
        """Return whether a schedule is active at a Unix time; it always is until the clock is believed."""
        return not self._has_clock or schedule.holds(unix_s)

    def check_clock(self, unix_s: float) -> None:
        """Follow the time zone and the clock, and the schedules once it is believed; call it regularly."""
        time.tzset()  # reads /etc/localtime again if it was replaced
        if not self._has_clock:
            if not self._is_clock_believed():
                return
            self._has_clock = True
            self._started_s = unix_s
            logger.info("the clock is believed: schedules are followed from now on")
            for switch, manual in self._manual_settings():
                if manual.boot_id == self._boot_id:
                    self.set(switch, manual.on, unix_s)  # its time is that of the wrong clock
        before, self._offset_s = self._offset_s, unix_s - boot_clock.now_ns() / 1e9
        is_corrected = before is not None and abs(self._offset_s - before) >= 1
        if before is None or is_corrected:
            self._correct_future(unix_s)
        self._end_overtaken(unix_s, is_corrected=is_corrected)

    def _end_overtaken(self, unix_s: float, *, is_corrected: bool) -> None:
        """Note which settings their schedules have ended: they must not come back with another schedule.

        Args:
            unix_s: now.
            is_corrected: whether the clock was set, so that what was noted by the former time is checked again.
        """
        for switch, manual in self._manual_settings():
            is_over = math.isfinite(manual.over_unix_s)
            if is_over and is_corrected and manual.boot_id == self._boot_id:
                self._keep(switch, manual._replace(over_unix_s=math.inf))
                is_over = False
            changed_at = self._schedules[switch].changed_at(unix_s)
            if not is_over and changed_at is not None and self._manual_on(switch, unix_s) is None:
                self._keep(switch, manual._replace(over_unix_s=changed_at))

    def _correct_future(self, unix_s: float) -> None:
        """Correct settings of earlier boots whose clock was ahead: one that arms counts as made now."""
        for switch, manual in self._manual_settings():
            if (
                manual.boot_id != self._boot_id
                and manual.unix_s > unix_s + _CLOCKS_DIFFER_S
                and self._schedules[switch].changed_at(unix_s) is not None
            ):
                if manual.on:
                    self.set(switch, True, unix_s)
                else:  # whether the schedule has changed since is unknown
                    self._save(f"{_SETTING}{switch}", None)

    def is_armed(self, camera: str, unix_s: float) -> bool:
        """Return whether both the node and the camera were armed at a Unix time."""
        return self.is_on(NODE, unix_s) and self.is_on(camera, unix_s)

    def ask(self, switch: str, on: bool, unix_s: float) -> bool:
        """Set a switch manually, unless it is set already; return whether its state has changed."""
        is_changed = self.is_on(switch, unix_s) != on
        manual = self._manual_setting(switch)
        # Also if the schedule has the same effect: the clock may be wrong, or a setting be read later
        is_set = (
            self._manual_on(switch, unix_s) == on and manual and manual.boot_id == self._boot_id
        )
        if not is_set:
            self.set(switch, on, unix_s)
        return is_changed

    def assume_on(self, unix_s: float) -> None:
        """Set all switches whose setting was lost: they may have been on."""
        logger.warning("the stored switches are lost: they are on until their schedule changes")
        for switch in self._schedules:
            if self._manual_setting(switch) is None:
                self.set(switch, True, unix_s)

    def set(self, switch: str, on: bool, unix_s: float) -> None:
        """Set a switch manually."""
        self._keep(
            switch,
            _Manual(
                on, round(unix_s, 3), self._boot_id, round(boot_clock.now_ns() / 1e9, 3), math.inf
            ),
        )

    def _keep(self, switch: str, manual: _Manual) -> None:
        kept = manual._asdict()
        if math.isinf(manual.over_unix_s):
            del kept["over_unix_s"]
        self._save(f"{_SETTING}{switch}", json.dumps(kept))

    def state(self, unix_s: float) -> dict[str, bool]:
        """Return whether each switch is on, by name."""
        return {switch: self.is_on(switch, unix_s) for switch in self._schedules}

    def _manual_setting(self, switch: str) -> _Manual | None:
        """Return the manual setting of a switch; None if there is none."""
        try:
            found = json.loads(self._settings[f"{_SETTING}{switch}"])
            unix_s, boot_s = float(found["unix_s"]), found.get("boot_s")
            boot_id = "" if boot_s is None else str(found["boot_id"])  # of an older version
            over_unix_s = float(found.get("over_unix_s", math.inf))
            return _Manual(bool(found["on"]), unix_s, boot_id, float(boot_s or 0), over_unix_s)
        except (KeyError, ValueError, TypeError):
            return None

    def _manual_settings(self) -> list[tuple[str, _Manual]]:
        found = ((switch, self._manual_setting(switch)) for switch in self._schedules)
        return [(switch, manual) for switch, manual in found if manual is not None]


def _log_time_zone() -> None:
    if fault := time_zone_fault():
        logger.warning("TZ: %s; correct TZ. Schedules are followed in UTC", fault)
    else:
        logger.info("schedules are followed in %s", describe_time_zone())


class Audience:
    """Selects the notification targets of an event."""

    def __init__(self, config: Config, arming: Arming) -> None:
        self._arming = arming
        self._arrived_at: dict[tuple[str, str], float] = {}  # camera, target: boot_clock.now_ns [s]
        self._targets = [(target, Schedule(target.schedule)) for target in config.notify]
        for target in config.notify:
            if silent := config.silent_classes(target):
                logger.warning(
                    "notify: %s: %s not in alarm.classes of its cameras, so never notified. Correct the name, or add "
                    "it to alarm.classes",
                    target.name,
                    ", ".join(map(repr, silent)),
                )

    def targets_of(self, row: Row) -> tuple[str, ...]:
        """Return the names of the targets to notify of a visit's event.

        A class that joins a visit counts as an arrival, except for targets that were notified of another arrival at the
        same camera within the last ``JOINED_S``.
        """
        action, now_s = row.event_id.rpartition(":")[2], boot_clock.now_ns() / 1e9
        joined = action == JOINED
        arrived = joined or action == Transition.ARRIVED.value
        class_name = str(json.loads(row.details)["class"])
        wanted = Transition.ARRIVED.value if arrived else action
        targets = tuple(
            target.name
            for target in self._wanting(wanted, row.camera, row.unix_ns / 1e9)
            if (not target.classes or class_name in target.classes)
            and not (joined and now_s - self._arrival(row.camera, target.name) <= JOINED_S)
        )
        if arrived:
            self._arrived_at |= {(row.camera, target): now_s for target in targets}
        return targets

    def _arrival(self, camera: str, target: str) -> float:
        return self._arrived_at.get((camera, target), float("-inf"))

    def wanting(self, action: str, camera: str, unix_s: float) -> tuple[str, ...]:
        """Return the names of the targets that want a camera's action at a Unix time, regardless of class."""
        return tuple(target.name for target in self._wanting(action, camera, unix_s))

    def _wanting(self, action: str, camera: str, unix_s: float) -> Iterator[NotifySection]:
        for target, schedule in self._targets:
            if (
                action in target.events
                and (not target.cameras or camera in target.cameras)
                and self._arming.holds(schedule, unix_s)
                and (target.when == "always" or self._is_armed(camera, unix_s))
            ):
                yield target

    def _is_armed(self, camera: str, unix_s: float) -> bool:
        # A camera that was just removed from the configuration has no switch: only the node's applies.
        switch = camera if camera in self._arming else NODE
        return self._arming.is_armed(switch, unix_s)
