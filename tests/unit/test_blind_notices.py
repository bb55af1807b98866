"""Notifications about cameras that are not watched: one per outage, no matter how much the camera flaps."""

from __future__ import annotations

import json

import pytest

from tridetr.controller.blind_notices import BLIND_S, QUIET_S, BlindNotice, BlindNotices
from tridetr.notify.notification import message_of

START_UNIX_S = 1_796_000_000


class Rig:
    """One camera, checked every second; settings are stored like in the controller."""

    def __init__(self) -> None:
        self.settings: dict[str, str] = {}
        self.listening = {"phone"}
        self.now_s = 0
        self.sent: list[BlindNotice] = []
        self.start()

    def start(self) -> None:
        self.notices = BlindNotices(
            "pc", ["hall"], self.settings, lambda *_: tuple(sorted(self.listening))
        )

    def play(self, seconds: float, why: str = "") -> list[str]:
        """Return the notifications sent in that time: action and targets."""
        had = len(self.sent)
        for _ in range(round(seconds)):
            self.now_s += 1
            unix_ns = (START_UNIX_S + self.now_s) * 10**9
            notice = self.notices.look("hall", why, self.now_s, unix_ns)
            if notice is None:
                continue
            self.sent.append(notice)
            if notice.kept is None:
                self.settings.pop(notice.setting)
            else:
                self.settings[notice.setting] = notice.kept
        return [
            f"{notice.row.event_id.rpartition(':')[2]} {' '.join(notice.targets)}".strip()
            for notice in self.sent[had:]
        ]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_an_outage_is_notified_once_and_its_end_once(rig: Rig) -> None:
    rig.play(100)
    assert rig.play(BLIND_S, "offline") == []
    assert rig.play(5000, "offline") == ["blind phone"]
    assert rig.play(BLIND_S) == []
    assert rig.play(5000) == ["watched phone"]
    blind, watched = (json.loads(notice.row.details) for notice in rig.sent)
    assert blind["event_id"].split(":")[0] == watched["event_id"].split(":")[0]
    assert (blind["reason"], blind["kind"]) == ("offline", "camera_blind")
    assert watched["duration_s"] == BLIND_S + 5000
    assert message_of(rig.sent[0].row.details).title == "hall is not watched"
    assert "offline, pc" in message_of(rig.sent[0].row.details).text
    assert message_of(rig.sent[1].row.details).title == "hall is watched again"
    assert rig.settings == {}


def test_a_short_outage_is_not_notified(rig: Rig) -> None:
    for _ in range(20):
        assert rig.play(BLIND_S - 1, "offline") + rig.play(BLIND_S + 1) == []


@pytest.mark.parametrize(("blind_s", "seen_s"), [(50, 3), (20, 20), (3, 30)])
def test_intermittent_camera_is_notified(rig: Rig, blind_s: float, seen_s: float) -> None:
    """A camera or process in a crash loop is never blind for a whole minute, and never watched for one."""
    notified = []
    for _ in range(100):
        notified += rig.play(blind_s, "offline") + rig.play(seen_s)
    assert notified == ["blind phone"]
    assert rig.play(2 * BLIND_S) == ["watched phone"]


def test_a_camera_that_flaps_is_one_outage(rig: Rig) -> None:
    notified = []
    for _ in range(50):
        notified += rig.play(BLIND_S + 10, "offline") + rig.play(BLIND_S - 10)
    assert notified == ["blind phone"]


def test_slow_flapping_is_notified_rarely_and_lasting_blindness_always(rig: Rig) -> None:
    notified = []
    for _ in range(20):
        notified += rig.play(BLIND_S + 10, "offline") + rig.play(BLIND_S + 10)
    outages = notified.count("blind phone")
    assert 2 <= outages <= 1 + 20 * (2 * BLIND_S + 20) / QUIET_S
    assert notified.count("watched phone") == outages
    assert rig.play(QUIET_S + BLIND_S, "offline") == ["blind phone"]


def test_a_target_that_is_armed_during_an_outage_is_notified_then(rig: Rig) -> None:
    rig.listening = set()
    assert rig.play(1000, "offline") == []
    rig.listening = {"phone"}
    assert rig.play(5, "offline") == ["blind phone"]
    rig.listening = {"hook", "phone"}
    assert rig.play(1000, "offline") == ["blind hook"]
    assert len({notice.row.event_id for notice in rig.sent}) == 1
    rig.listening = {"hook"}
    assert rig.play(1000) == ["watched hook"]


def test_restart_repeats_and_loses_nothing(rig: Rig) -> None:
    rig.play(200, "offline")
    rig.start()
    assert rig.play(30) + rig.play(1000, "offline") == []
    rig.start()
    assert rig.play(1000) == ["watched phone"]


def test_damaged_setting_is_ignored(rig: Rig) -> None:
    rig.settings["blind/hall"] = "{"
    assert rig.play(1000) == []
    assert rig.play(1000, "offline") == ["blind phone"]


def test_a_removed_camera_leaves_no_setting(rig: Rig) -> None:
    rig.settings |= {"blind/yard": "{}", "blind/hall": "{}", "armed/yard": "{}"}
    assert rig.notices.stale_settings == ["blind/yard"]
