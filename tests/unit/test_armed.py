"""Arming switches and schedules: who is notified, and when."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tridetr import boot_clock
from tridetr.config import Config
from tridetr.config.schedule import Schedule, parse_window
from tridetr.controller.arming import NODE, Arming, Audience
from tridetr.controller.stored_rows import Row


def at(text: str) -> float:
    """Return a moment of the week of 23 November 2026, a Monday."""
    day, clock = text.split()
    number = ("mon", "tue", "wed", "thu", "fri", "sat", "sun").index(day)
    return datetime.fromisoformat(f"2026-11-{23 + number} {clock}").timestamp()


@pytest.mark.parametrize(
    ("windows", "inside", "outside"),
    [
        (["22:00-06:00"], ["mon 22:00", "tue 05:59", "mon 00:30"], ["mon 06:00", "mon 21:59"]),
        (["mon-fri 08:00-17:30"], ["mon 08:00", "fri 17:29"], ["sat 12:00", "fri 17:30"]),
        (["sat,sun 00:00-24:00"], ["sat 00:00", "sun 23:59"], ["fri 23:59", "mon 00:00"]),
        (["fri-mon 20:00-02:00"], ["tue 01:59", "sun 21:00", "fri 20:00"], ["tue 20:00"]),
        (["08:00-12:00", "12:00-14:00"], ["mon 12:00"], ["mon 14:00"]),
    ],
)
def test_a_schedule_holds_inside_its_weekly_times_only(
    windows: list[str], inside: list[str], outside: list[str]
) -> None:
    schedule = Schedule(windows)
    assert [moment for moment in inside if not schedule.holds(at(moment))] == []
    assert [moment for moment in outside if schedule.holds(at(moment))] == []


@pytest.mark.parametrize(
    "text",
    ["", "22-6", "25:00-06:00", "22:61-06:00", "moon 22:00-06:00", "22:00-22:00", "mon- 1:00-2:00"],
)
def test_invalid_weekly_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"22:00-06:00|mon, tue|same time"):
        parse_window(text)


def test_adjacent_times_cause_no_change_in_between() -> None:
    schedule = Schedule(["08:00-12:00", "12:00-14:00"])
    assert schedule.changed_at(at("mon 13:00")) == at("mon 08:00")
    assert schedule.changed_at(at("mon 15:00")) == at("mon 14:00")
    assert Schedule([]).changed_at(at("mon 15:00")) is None
    assert Schedule(["mon-sun 00:00-24:00"]).changed_at(at("wed 15:00")) is None


@pytest.fixture
def time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("time_zone")
def test_local_time_across_the_end_of_daylight_saving() -> None:
    """On 25 October 2026 the clock goes back from 03:00 to 02:00."""
    schedule = Schedule(["22:00-06:00"])
    saturday = datetime.fromisoformat("2026-10-24T22:00:00+02:00").timestamp()
    sunday = datetime.fromisoformat("2026-10-25T06:00:00+01:00").timestamp()
    assert sunday - saturday == 9 * 3600
    assert [schedule.holds(t) for t in (saturday - 1, saturday, sunday - 1, sunday)] == [
        False, True, True, False,
    ]  # fmt: skip


@pytest.mark.usefixtures("time_zone")
@pytest.mark.parametrize(
    ("window", "begin", "end"),
    [
        # On 25 October 2026 the hour from 02:00 to 03:00 is repeated.
        ("22:00-02:30", "2026-10-24 22:00 +0200", "2026-10-25 02:30 +0100"),
        ("02:00-02:30", "2026-10-25 02:00 +0200", "2026-10-25 02:30 +0100"),
        ("02:15-02:45", "2026-10-25 02:15 +0200", "2026-10-25 02:45 +0100"),
        ("02:30-04:00", "2026-10-25 02:30 +0200", "2026-10-25 04:00 +0100"),
        ("01:00-02:00", "2026-10-25 01:00 +0200", "2026-10-25 02:00 +0100"),
        ("03:00-04:00", "2026-10-25 03:00 +0100", "2026-10-25 04:00 +0100"),
        # On 29 March 2026 it is skipped.
        ("22:00-02:30", "2026-03-28 22:00 +0100", "2026-03-29 03:30 +0200"),
        ("02:00-02:30", "2026-03-29 03:00 +0200", "2026-03-29 03:30 +0200"),
        ("02:15-02:45", "2026-03-29 03:00 +0200", "2026-03-29 03:45 +0200"),
        ("02:30-03:15", "2026-03-29 03:00 +0200", "2026-03-29 03:15 +0200"),
        ("01:00-02:00", "2026-03-29 01:00 +0100", "2026-03-29 03:00 +0200"),
        ("03:00-04:00", "2026-03-29 03:00 +0200", "2026-03-29 04:00 +0200"),
    ],
)
def test_a_period_at_a_clock_change_holds_from_its_first_moment_to_its_last(
    window: str, begin: str, end: str
) -> None:
    schedule = Schedule([window])
    first, last = (
        datetime.strptime(text, "%Y-%m-%d %H:%M %z").timestamp() for text in (begin, end)
    )
    assert last > first
    moments = (first - 1, first, (first + last) / 2, last - 1, last)
    assert [schedule.holds(moment) for moment in moments] == [False, True, True, True, False]
    assert schedule.changed_at(last + 1) == last


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "Africa/Casablanca"]
)
def test_no_period_is_missed_at_a_clock_change(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the clock shows a time in a period, the schedule holds."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        new_year = int(datetime(2026, 1, 1, tzinfo=ZoneInfo(zone)).timestamp())
        days = [new_year + day * 86_400 for day in range(365)]
        changes = [day for day in days if _offset(zone, day) != _offset(zone, day + 86_400)]
        assert changes
        for text in ("00:00-00:20", "00:15-02:15", "02:10-02:25", "23:30-24:00", "23:40-02:40"):
            schedule, window = Schedule([text]), parse_window(text)
            for change in changes:
                held = 0
                for moment in range(change - 86_400, change + 2 * 86_400, 300):
                    held += schedule.holds(moment)
                    shown = datetime.fromtimestamp(moment, ZoneInfo(zone))
                    minute = shown.hour * 60 + shown.minute
                    if any(window.start <= m < window.end for m in (minute, minute + 1440)):
                        assert schedule.holds(moment), (text, shown)
                assert held >= 2 * (window.end - window.start) // 5
    finally:
        monkeypatch.undo()
        time.tzset()


def _offset(zone: str, unix_s: float) -> timedelta | None:
    return datetime.fromtimestamp(unix_s, ZoneInfo(zone)).utcoffset()


class Bench:
    def __init__(self, **sections: object) -> None:
        self.settings: dict[str, str] = {}
        self.clock_is_believed = self.is_stored = True
        self.config = Config.model_validate(
            {
                "cameras": {"hall": {"source": "synthetic"}, "yard": {"source": "synthetic"}},
                **sections,
            }
        )
        self.arming = self.restart()

    def restart(self) -> Arming:
        return Arming(
            self.config,
            self.settings,
            self._save,
            lambda: self.is_stored,
            lambda: self.clock_is_believed,
        )

    def _save(self, name: str, value: str | None) -> None:
        if value is None:
            del self.settings[name]
        else:
            self.settings[name] = value


def test_switch_set_with_a_wrong_clock_does_not_override_its_schedule() -> None:
    """Otherwise a clock that was years ahead would keep the node disarmed until then."""
    bench = Bench(armed={"schedule": ["22:00-06:00"]})
    bench.arming.set(NODE, False, at("mon 23:00") + 10 * 365 * 86_400)
    assert bench.arming.is_on(NODE, at("mon 23:00"))
    bench.arming.set(NODE, False, at("mon 23:00"))
    # For an event that is still being processed
    assert not bench.arming.is_on(NODE, at("mon 23:00") - 5)
    assert bench.arming.is_on(NODE, at("tue 22:00"))


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("ahead_s", [7200, 10 * 365 * 86_400])
def test_manual_setting_holds_when_the_clock_is_set_back(on: bool, ahead_s: int) -> None:
    """A node that was armed by hand was off until the clock had caught up, without a problem."""
    bench = Bench(armed={"schedule": ["22:00-06:00"]})
    set_at = at("mon 18:00" if on else "mon 23:00")
    bench.arming.check_clock(set_at + ahead_s)
    bench.arming.set(NODE, on, set_at + ahead_s)
    for arming in (bench.arming, bench.restart()):
        assert not on or arming.is_on(NODE, set_at)  # before the change is noticed
        arming.check_clock(set_at)
        assert arming.is_on(NODE, set_at) == on
        assert arming.is_on(NODE, at("tue 05:59")) == on
        assert arming.is_on(NODE, at("tue 22:00"))
        assert not arming.is_on(NODE, at("wed 07:00"))


@pytest.mark.parametrize("schedule", [[], ["00:00-24:00"], ["mon 00:00-24:00", "sun 00:00-24:00"]])
@pytest.mark.parametrize("on", [True, False])
def test_a_setting_that_its_schedule_has_ended_does_not_come_back_with_another_one(
    on: bool, schedule: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who removed the schedule to be notified always was never notified again: by an OFF of months ago."""
    bench = Bench(armed={"schedule": ["22:00-06:00"]})
    now_s = at("mon 21:00")
    monkeypatch.setattr(boot_clock, "now_ns", lambda: round((now_s - at("mon 00:00")) * 1e9))
    bench.arming.check_clock(now_s)
    bench.arming.set(NODE, on, now_s)
    for moment in ("mon 21:59", "mon 22:00", "tue 06:00"):
        now_s = at(moment)
        bench.arming.check_clock(now_s)
    # For an event that is still being processed
    assert bench.arming.is_on(NODE, at("mon 21:59")) == on
    assert not bench.arming.is_on(NODE, at("tue 06:00"))
    bench.config = bench.config.model_copy(
        update={"armed": bench.config.armed.model_copy(update={"schedule": schedule})}
    )
    arming = bench.restart()
    arming.check_clock(now_s)
    assert arming.is_on(NODE, now_s) == (len(schedule) < 2)
    arming.set(NODE, False, now_s)
    arming.check_clock(now_s)
    assert not arming.is_on(NODE, now_s)


def test_clock_that_is_set_forward_does_not_disarm() -> None:
    bench = Bench(armed={"schedule": ["22:00-06:00"]})
    bench.arming.set(NODE, True, at("mon 20:00"))
    bench.arming.check_clock(at("tue 07:00"))
    assert bench.arming.is_on(NODE, at("tue 08:00"))
    assert not bench.arming.is_on(NODE, at("wed 06:00"))
    # Nor does a machine that was paused, whose clock is then set forward.
    bench.arming.check_clock(at("mon 22:30"))
    bench.arming.set(NODE, False, at("mon 22:30"))
    bench.arming.check_clock(at("tue 22:30"))
    assert bench.arming.is_on(NODE, at("tue 22:30"))


def test_setting_from_the_future_of_an_earlier_boot_counts_if_it_arms() -> None:
    night = {"schedule": ["22:00-06:00"]}
    cameras = {"hall": {"source": "synthetic", "armed": night}, "yard": {"source": "synthetic"}}
    bench = Bench(armed=night, cameras=cameras)
    for switch, on in ((NODE, True), ("hall", False), ("yard", False)):
        bench.arming.set(switch, on, at("wed 23:00"))
        setting = bench.settings[f"armed/{switch}"]
        bench.settings[f"armed/{switch}"] = setting.replace(boot_clock.boot_id(), "before")
    arming = bench.restart()
    arming.check_clock(at("mon 18:00"))
    assert arming.is_on(NODE, at("mon 18:00"))
    assert not arming.is_on(NODE, at("tue 06:00"))
    assert arming.is_on("hall", at("thu 03:00"))
    assert not arming.is_on("yard", at("thu 03:00"))  # without a schedule, until it is set again


def test_schedules_count_as_active_until_the_clock_is_believed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a power cut, a machine without a battery starts with an old clock: it must not miss the night's burglar."""
    night = ["22:00-06:00"]
    target = {"name": "phone", "kind": "webhook", "url_file": "x", "schedule": night}
    bench = Bench(armed={"schedule": night}, notify=[target])
    bench.arming.set(NODE, False, at("mon 21:00"))  # in the evening before
    bench.settings["armed/"] = bench.settings["armed/"].replace(boot_clock.boot_id(), "before")
    bench.clock_is_believed = False
    arming = bench.restart()
    audience = Audience(bench.config, arming)
    for _ in range(3):
        arming.check_clock(at("mon 21:17"))
    assert "schedules count as active" in caplog.text
    assert len(caplog.records) == 1
    assert arming.state(at("mon 21:17")) == {NODE: True, "hall": True, "yard": True}
    assert audience.targets_of(row("hall", "arrived", moment="mon 21:17")) == ("phone",)
    bench.clock_is_believed = True
    arming.check_clock(at("tue 12:00"))
    assert not arming.is_on(NODE, at("tue 12:00"))
    assert arming.is_on(NODE, at("tue 22:00"))
    assert audience.targets_of(row("hall", "arrived", moment="tue 12:00")) == ()
    assert audience.targets_of(row("hall", "arrived", moment="tue 22:00")) == ("phone",)


def test_switch_that_was_set_before_the_clock_was_right_keeps_its_value() -> None:
    bench = Bench(armed={"schedule": ["22:00-06:00"]})
    bench.clock_is_believed = False
    arming = bench.restart()
    arming.set("hall", False, at("mon 21:00"))
    arming.set(NODE, False, at("mon 21:17"))
    assert not arming.is_on(NODE, at("mon 21:20"))
    assert not bench.restart().is_on(NODE, at("mon 21:20"))
    bench.clock_is_believed = True
    arming.check_clock(at("tue 01:00"))
    assert not arming.is_on(NODE, at("tue 02:00"))
    assert arming.is_on(NODE, at("tue 22:00"))
    assert not arming.is_on("hall", at("sun 02:00"))


@pytest.mark.parametrize("earlier", [None, False])
def test_a_switch_that_is_asked_to_be_on_before_the_clock_is_right_stays_on(
    earlier: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was on already, like all schedules, so that nothing was stored."""
    bench = Bench(armed={"schedule": ["22:00-06:00"]})
    if earlier is not None:
        bench.arming.ask(NODE, earlier, at("mon 23:00"))
    monkeypatch.setattr(boot_clock, "boot_id", lambda: "next boot")
    bench.clock_is_believed = False
    arming = bench.restart()
    assert not arming.ask(NODE, True, at("mon 23:10"))
    stored = dict(bench.settings)
    assert not arming.ask(NODE, True, at("mon 23:20"))
    assert bench.settings == stored, "nothing is written again"
    bench.clock_is_believed = True
    arming.check_clock(at("tue 12:00"))
    assert arming.is_on(NODE, at("tue 12:00"))
    assert not arming.is_on(NODE, at("wed 06:00"))


def test_a_switch_that_is_asked_to_be_on_while_the_clock_is_wrong_stays_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(armed={"schedule": ["22:00-06:00"]})
    monkeypatch.setattr(boot_clock, "now_ns", lambda: 10**15)
    bench.arming.check_clock(at("mon 23:00"))
    assert not bench.arming.ask(NODE, True, at("mon 23:00"))
    bench.arming.check_clock(at("tue 10:00"))  # corrected
    assert bench.arming.is_on(NODE, at("tue 10:00"))
    assert bench.arming.is_on(NODE, at("wed 05:59"))
    assert not bench.arming.is_on(NODE, at("wed 06:00"))


def test_lost_switches_are_on_until_their_schedule_changes_also_after_a_restart() -> None:
    bench = Bench(armed={"schedule": ["22:00-06:00"]})
    bench.arming.set("hall", False, at("mon 12:00"))
    bench.arming.assume_on(at("mon 13:00"))
    arming = bench.restart()
    assert arming.state(at("mon 14:00")) == {NODE: True, "hall": False, "yard": True}
    assert arming.is_on(NODE, at("tue 05:59"))
    assert not arming.is_on(NODE, at("tue 06:00"))


@pytest.mark.usefixtures("time_zone")
def test_a_time_zone_that_is_changed_while_the_node_runs_applies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine that was still in UTC, for example: the schedules went on in the old zone."""
    night = datetime.fromisoformat("2026-11-26T22:30:00+09:00").timestamp()
    target = {"name": "phone", "kind": "webhook", "url_file": "x", "schedule": ["22:00-06:00"]}
    bench = Bench(armed={"schedule": ["22:00-06:00"]}, notify=[target])
    audience = Audience(bench.config, bench.arming)
    bench.arming.check_clock(night)
    assert not bench.arming.is_on(NODE, night)
    assert audience.wanting("arrived", "hall", night) == ()
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    bench.arming.check_clock(night)
    assert bench.arming.is_on(NODE, night)
    assert audience.wanting("arrived", "hall", night) == ("phone",)


@pytest.mark.usefixtures("time_zone")
def test_the_time_zone_of_schedules_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    Bench()
    assert caplog.text == ""
    Bench(armed={"schedule": ["22:00-06:00"]})
    (record,) = caplog.records
    assert re.search(r"Europe/Berlin \((CET, UTC\+01:00|CEST, UTC\+02:00)\)", record.message)
    caplog.clear()
    monkeypatch.setenv("TZ", "Europe/Berln")
    Bench(armed={"schedule": ["22:00-06:00"]})
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "'Europe/Berln' is not a time zone" in record.message


def test_armed_until_switched_off_and_after_a_restart() -> None:
    bench = Bench()
    assert bench.arming.state(at("mon 10:00")) == {NODE: True, "hall": True, "yard": True}
    bench.arming.set("hall", False, at("mon 10:00"))
    again = bench.restart()
    assert not again.is_armed("hall", at("sun 10:00"))
    assert again.is_armed("yard", at("sun 10:00"))
    again.set(NODE, False, at("mon 11:00"))
    assert not again.is_armed("yard", at("mon 11:00"))


def test_manual_setting_holds_until_its_schedule_changes() -> None:
    bench = Bench(armed={"schedule": ["22:00-06:00"]})
    arming = bench.arming
    assert not arming.is_on(NODE, at("mon 12:00"))
    arming.set(NODE, True, at("mon 12:00"))
    assert arming.is_on(NODE, at("mon 21:00"))
    assert arming.is_on(NODE, at("tue 03:00"))
    assert not arming.is_on(NODE, at("tue 06:00"))
    arming.set(NODE, False, at("tue 23:00"))
    assert not arming.is_on(NODE, at("wed 05:00"))
    # After a downtime, the schedule applies again.
    assert bench.restart().is_on(NODE, at("wed 22:00"))


def test_switches_that_cannot_be_read_count_as_on_until_their_schedule_changes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that was armed by hand was disarmed after a restart with a locked database."""
    bench = Bench(armed={"schedule": ["22:00-06:00"]})
    bench.is_stored = False
    monkeypatch.setattr(time, "time", lambda: at("mon 12:00"))
    arming = bench.restart()
    assert "count as on" in caplog.text
    assert arming.state(at("mon 12:00")) == {NODE: True, "hall": True, "yard": True}
    assert arming.is_on(NODE, at("tue 05:59"))
    assert not arming.is_on(NODE, at("tue 06:00"))
    assert arming.is_on("hall", at("tue 06:00"))
    assert not arming.ask("yard", True, at("mon 12:00"))
    assert "armed/yard" in bench.settings, "what is read later must not disarm it"
    assert arming.ask("hall", False, at("mon 12:00"))
    assert not arming.is_on("hall", at("mon 12:00"))
    bench.is_stored = True
    assert not arming.is_on(NODE, at("mon 12:00"))


def test_settings_of_removed_cameras_and_damaged_ones_do_nothing() -> None:
    bench = Bench()
    bench.settings |= {"armed/gone": "{}", "armed/hall": "junk", "armed/yard": "[]"}
    arming = bench.restart()
    assert "armed/gone" not in bench.settings
    assert arming.state(0) == {NODE: True, "hall": True, "yard": True}


def row(camera: str, action: str, class_name: str = "person", moment: str = "mon 10:00") -> Row:
    details = json.dumps({"class": class_name})
    return Row(1, round(at(moment) * 1e9), camera, f"{class_name}_{action}", details, f"v:{action}")


def test_each_target_gets_the_visits_it_selects() -> None:
    def target(name: str, **keys: object) -> dict[str, object]:
        return {"name": name, "kind": "webhook", "url_file": "x", **keys}

    bench = Bench(
        notify=[
            target("plain"),
            target("ends", events=["left", "lost"]),
            target("yard", cameras=["yard"]),
            target("cars", classes=["car"]),
            target("always", when="always"),
            target("night", schedule=["22:00-06:00"], when="always"),
        ]
    )
    audience = Audience(bench.config, bench.arming)
    assert audience.targets_of(row("hall", "arrived")) == ("plain", "always")
    assert audience.targets_of(row("yard", "arrived", "car")) == ("plain", "yard", "cars", "always")
    assert audience.targets_of(row("hall", "lost")) == ("ends",)
    assert "night" in audience.targets_of(row("hall", "arrived", moment="mon 23:00"))
    bench.arming.set("hall", False, at("mon 09:00"))
    assert audience.targets_of(row("hall", "arrived")) == ("always",)
    assert audience.targets_of(row("yard", "arrived")) == ("plain", "yard", "always")
    # For a camera that is no longer configured, the node's switch applies.
    assert audience.targets_of(row("gone", "lost")) == ("ends",)


def test_class_that_joins_is_notified_unless_the_target_was_notified_just_before() -> None:
    targets = [
        {"name": name, "kind": "webhook", "url_file": "x", "classes": classes}
        for name, classes in (("all", []), ("people", ["person"]))
    ]
    bench = Bench(notify=targets)
    audience = Audience(bench.config, bench.arming)
    assert audience.targets_of(row("hall", "arrived", "car")) == ("all",)
    assert audience.targets_of(row("hall", "joined")) == ("people",)
    assert audience.targets_of(row("hall", "joined")) == ()
    assert audience.targets_of(row("yard", "joined")) == ("all", "people")
