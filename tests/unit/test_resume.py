"""The time for which a controller was away, after a restart of the machine whose clock may be wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tridetr import boot_clock
from tridetr.controller.resume import resume
from tridetr.controller.state_machine import TRACKING
from tridetr.controller.store import Store
from tridetr.controller.visits import Record


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(tmp_path, outbox_limit=10)
    yield found
    found.close()


def keep(store: Store, boot: str, seen_boot_ns: int = 0) -> None:
    record = Record(
        TRACKING,
        "visit",
        seen_unix_ns=time.time_ns() - 10**9,
        visit_classes=("person",),
        boot_id=boot,
        seen_boot_ns=seen_boot_ns,
    )
    store.commit("hall", record.to_json(), [])


@pytest.mark.parametrize("right", [True, False])
def test_another_boot_is_only_comparable_with_a_clock_that_is_right(
    store: Store, monkeypatch: pytest.MonkeyPatch, right: bool
) -> None:
    """A machine without a battery starts with the time of the power cut: the next burglar is not the last visitor."""
    keep(store, "another boot")
    monkeypatch.setattr(boot_clock, "is_right", lambda: right)
    record, seen_ns = resume(store, "hall", None)
    assert record.visit_id == "visit"
    assert (seen_ns is not None) == right


@pytest.mark.parametrize("boot", [boot_clock.boot_id(), ""])
def test_restart_of_the_node_continues(
    store: Store, monkeypatch: pytest.MonkeyPatch, boot: str
) -> None:
    keep(store, boot)
    monkeypatch.setattr(boot_clock, "is_right", lambda: False)
    seen_ns = resume(store, "hall", None)[1]
    assert seen_ns is not None
    assert 1 <= (time.monotonic_ns() - seen_ns) / 1e9 < 60


@pytest.mark.parametrize("step_s", [-3600, -80, 0])
def test_a_clock_that_was_set_back_meanwhile_makes_the_time_away_no_shorter(
    store: Store, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    """After 100 s, the visitor of before was taken for the person in view, who raised no alarm."""
    keep(store, boot_clock.boot_id(), seen_boot_ns=boot_clock.now_ns() - 100 * 10**9)
    unix_ns = time.time_ns() + (99 + step_s) * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: unix_ns)
    seen_ns = resume(store, "hall", None)[1]
    assert seen_ns is not None
    assert 100 <= (time.monotonic_ns() - seen_ns) / 1e9 < 160


def test_clock_is_right_if_it_is_synchronised_or_the_chip_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot_clock, "_RTC", tmp_path)
    monkeypatch.setattr(boot_clock, "_is_synchronised", lambda: False)
    assert not boot_clock.is_right()
    chip = tmp_path / "rtc0"
    chip.mkdir()
    for text, right in (("", False), ("86400", False), (f"{time.time() - 3600:.0f}\n", True)):
        (chip / "since_epoch").write_text(text)
        assert boot_clock.is_right() == right
    # Its battery is empty, and the machine's clock was set from it.
    (chip / "since_epoch").write_text("946684800")
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: 946684900.0)
        assert not boot_clock.is_right()
    monkeypatch.setattr(boot_clock, "_is_synchronised", lambda: True)
    assert boot_clock.is_right()


def test_clock_that_cannot_be_confirmed_is_believed_half_an_hour_after_boot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Offline machines without a clock chip, and containers that hide it, must follow their schedules too."""
    right = False
    since_boot_s = 60.0
    monkeypatch.setattr(boot_clock, "is_right", lambda: right)
    monkeypatch.setattr(time, "clock_gettime", lambda _clock: since_boot_s)
    assert not boot_clock.is_believed()
    since_boot_s = 1800.0
    assert boot_clock.is_believed()
    since_boot_s, right = 60.0, True
    assert boot_clock.is_believed()
